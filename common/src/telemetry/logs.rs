//! How a log line looks, and which ones are written.

use std::borrow::Cow;
use std::fmt;
use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Log, LogFormat};
use crate::outside;

/// No line is longer, bytes, but for what stands around its fields. What belongs into one is far shorter; what does not was
/// somebody's to choose.
const LONGEST: usize = 8 * 1024;

/// The target of access lines: `log.access` alone decides about them, whatever the level.
pub const ACCESS: &str = "access";

/// `log.level` is neither a level nor a filter: the operator's fault.
#[derive(Debug, thiserror::Error)]
#[error("`log.level`: `{level}` is neither a level (trace, debug, info, warn, error) nor a filter: {reason}")]
pub struct InvalidFilter {
    level: String,
    reason: String,
}

/// Starts the process's log on stderr, and reports panics as `ERROR` lines. A log that already runs goes on as it is.
///
/// # Errors
/// When `log.level` cannot be read.
pub fn init_logs(log: &Log, instance: &str) -> Result<(), InvalidFilter> {
    let colour = std::io::stderr().is_terminal() && log.format == LogFormat::Text;
    let subscriber = subscriber(log, instance, std::io::stderr, colour)?;
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(panic = outside::quoted(&panic.to_string()), "a task panicked");
        }));
    }
    Ok(())
}

fn subscriber<W>(log: &Log, instance: &str, writer: W, colour: bool) -> Result<impl Subscriber + use<W>, InvalidFilter>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour);
    let lines: Box<dyn Layer<_> + Send + Sync> = match log.format {
        LogFormat::Text => Box::new(layer.event_format(Text {
            instance: instance.to_owned(),
            colour,
            format: Format::default().with_ansi(colour),
        })),
        LogFormat::Json => Box::new(layer.fmt_fields(JsonFields::new()).event_format(JsonLine {
            instance: serde_json::Value::from(instance).to_string(),
            format: Format::default().json().flatten_event(true),
        })),
    };
    Ok(tracing_subscriber::registry().with(filter(log)?).with(lines))
}

/// A plain level holds for this program; libraries stay at `info` at most, because below it some print what they
/// transport. A filter is taken as written.
fn filter(log: &Log) -> Result<EnvFilter, InvalidFilter> {
    // lapin reports every lost link and every refused declaration as an ERROR of its own; both are reported where they are
    // handled.
    let directives = match log.level.parse::<Level>() {
        Ok(level) if level > Level::INFO => format!("info,openclaw={level},lapin=off"),
        Ok(level) => format!("{level},lapin=off"),
        Err(_) => log.level.clone(),
    };
    let access = if log.access { "info" } else { "off" };
    EnvFilter::try_new(format!("{directives},{ACCESS}={access}")).map_err(|error| InvalidFilter {
        level: log.level.clone(),
        reason: error.to_string(),
    })
}

/// `instance 2026-11-20T06:01:14.123456Z  INFO target: message field=value`
struct Text {
    instance: String,
    colour: bool,
    format: Format,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        write!(writer, "{} ", self.instance)?;
        write_one_line(&mut writer, &line, self.colour)
    }
}

/// Fields are written as they are (`%`), so one of them may hold a line's end and behind it another line, made up by whoever
/// sent it. A terminal's colours begin with an escape; those inside fields the library has made harmless.
fn write_one_line(writer: &mut Writer<'_>, line: &str, colour: bool) -> fmt::Result {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let short = &line[..line.floor_char_boundary(LONGEST)];
    let mut rest = short;
    while let Some(at) = rest.find(|character| outside::breaks_out(character) && !(colour && character == '\u{1b}')) {
        let (before, behind) = rest.split_at(at);
        let mut characters = behind.chars();
        let character = characters.next().unwrap_or_default();
        write!(writer, "{before}{}", character.escape_default())?;
        rest = characters.as_str();
    }
    let cut = if short.len() < line.len() { "…" } else { "" };
    writeln!(writer, "{rest}{cut}")
}

/// `{"instance":"…","timestamp":"…","level":"INFO","message":"…",…}`
struct JsonLine {
    /// As JSON.
    instance: String,
    format: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        if line.len() > LONGEST {
            line = shortened(&line)?;
        }
        let line = escaped(&line);
        let rest = line.strip_prefix('{').ok_or(fmt::Error)?;
        write!(writer, "{{\"instance\":{},{rest}", self.instance)
    }
}

/// JSON leaves characters as they are that some readers take for a line's end. They stand in strings only.
fn escaped(line: &str) -> Cow<'_, str> {
    let fields = line.strip_suffix('\n').unwrap_or(line);
    if !fields.contains(outside::breaks_out) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len());
    for character in fields.chars() {
        if outside::breaks_out(character) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped.push('\n');
    Cow::Owned(escaped)
}

/// The same line with every long value cut.
fn shortened(line: &str) -> Result<String, fmt::Error> {
    let mut fields: serde_json::Map<_, _> = serde_json::from_str(line).map_err(|_| fmt::Error)?;
    for value in fields.values_mut() {
        match value {
            serde_json::Value::String(text) => *text = outside::sentence(text),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => *value = serde_json::Value::Null,
            _ => {}
        }
    }
    serde_json::to_string(&fields)
        .map(|line| line + "\n")
        .map_err(|_| fmt::Error)
}

#[cfg(test)]
mod tests;
