//! The body of `POST /v1/messages`: what is to be sent, through whom, when. Every mistake names its field.

use jiff::Timestamp;
use openclaw_common::send::SendOrder;
use serde_json::{Map, Value};

use crate::reply::{Code, Refusal};
use crate::{content, id};

/// Message types that Feishu sends (`docs/design/feishu-protocol.md` §6.3).
const TYPES: [&str; 11] = [
    "text",
    "post",
    "interactive",
    "image",
    "file",
    "audio",
    "media",
    "sticker",
    "share_chat",
    "share_user",
    "system",
];
/// Feishu's limit of a request that sends a card or a post, and of any other.
const MAX_CARD: usize = 30 * 1024;
const MAX_TEXT: usize = 150 * 1024;
/// What Feishu's request holds besides receiver, type and content: names, punctuation and the longest uuid.
const AROUND: usize = 120;
/// Of a field's name and of a time, in characters.
const LONGEST_SHOWN: usize = 64;
/// Further ahead is a slip of the finger.
const FURTHEST_MS: i64 = 366 * 24 * 3600 * 1000;

/// Through whom it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Bot(String),
    Pool(String),
}

/// Reads a request's body.
pub(crate) fn parse(body: &[u8], now_ms: i64) -> Result<(Through, SendOrder), Refusal> {
    let mut fields = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(Refusal::malformed("the body must be a JSON object")),
        Err(error) => return Err(Refusal::malformed(format!("the body is not JSON: {error}"))),
    };
    let through = match (text(&mut fields, "bot")?, text(&mut fields, "pool")?) {
        (Some(bot), None) => Through::Bot(bot),
        (None, Some(pool)) => Through::Pool(pool),
        (Some(_), Some(_)) => return Err(wrong("pool", "give `bot` or `pool`, not both")),
        (None, None) => return Err(wrong("bot", "is missing: give `bot` or `pool`")),
    };
    let to = text(&mut fields, "to")?.ok_or_else(|| wrong("to", "is missing"))?;
    let msg_type = text(&mut fields, "msg_type")?.ok_or_else(|| wrong("msg_type", "is missing"))?;
    if !TYPES.contains(&msg_type.as_str()) {
        return Err(wrong("msg_type", &format!("is not one of {}", TYPES.join(", "))));
    }
    let content = match fields.remove("content") {
        Some(Value::Object(content)) => {
            content::check(&msg_type, &content).map_err(Refusal::malformed)?;
            Value::Object(content).to_string()
        }
        Some(_) => return Err(wrong("content", "must be a JSON object, such as {\"text\": \"hello\"}")),
        None => return Err(wrong("content", "is missing")),
    };
    let send_at_ms = match fields.remove("send_at") {
        None | Some(Value::Null) => None,
        Some(Value::String(time)) => Some(send_at(&time, now_ms)?),
        Some(_) => return Err(wrong("send_at", "must be a string")),
    };
    if let Some(unknown) = fields.keys().next() {
        return Err(wrong(
            &shown(unknown),
            "unknown field, known here: bot, pool, to, msg_type, content, send_at",
        ));
    }
    let order = SendOrder {
        to,
        msg_type,
        content,
        send_at_ms,
    };
    fits(&order)?;
    Ok((through, order))
}

/// An id or a name; `None` when it is absent or null.
fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Err(wrong(name, "is empty")),
        Some(Value::String(text)) => match id::complaint(&text) {
            Some(complaint) => Err(wrong(name, complaint)),
            None => Ok(Some(text)),
        },
        Some(_) => Err(wrong(name, "must be a string")),
    }
}

/// A field's name as answers and logs may show it.
fn shown(name: &str) -> String {
    let shown = name
        .chars()
        .filter(|char| char.is_alphanumeric() || char.is_ascii_graphic());
    shown.take(LONGEST_SHOWN).collect()
}

fn send_at(text: &str, now_ms: i64) -> Result<i64, Refusal> {
    let time: Timestamp = text
        .parse()
        .map_err(|_| wrong("send_at", "is not a time such as 2026-11-23T08:00:00Z (RFC 3339)"))?;
    let time = time.as_millisecond();
    if time.saturating_sub(now_ms) > FURTHEST_MS {
        return Err(wrong("send_at", "is more than a year ahead"));
    }
    Ok(time)
}

/// Feishu's own limit, told at the door: later it would be a dead letter.
fn fits(order: &SendOrder) -> Result<(), Refusal> {
    let limit = match order.msg_type.as_str() {
        "interactive" | "post" => MAX_CARD,
        _ => MAX_TEXT,
    };
    // As it goes over the wire: JSON text inside a JSON string.
    let content = serde_json::to_string(&order.content).map_or(usize::MAX, |text| text.len());
    let size = content.saturating_add(order.to.len() + order.msg_type.len() + AROUND);
    if size <= limit {
        return Ok(());
    }
    let limit = limit / 1024;
    let kind = &order.msg_type;
    Err(Refusal::new(
        Code::TooLarge,
        format!("content: Feishu takes at most {limit} KiB of a message of type {kind}"),
    ))
}

fn wrong(field: &str, sentence: &str) -> Refusal {
    Refusal::malformed(format!("{field}: {sentence}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    const GOOD: &str = r#"{"bot":"bot1","to":"oc_1","msg_type":"text","content":{"text":"hi"}}"#;

    #[test]
    fn a_request_has_one_form_however_it_is_written() {
        let other =
            r#" { "content" : {"text": "h\u0069"}, "msg_type":"text", "to":"oc_1", "bot":"bot1", "send_at":null } "#;
        let (through, order) = parse(GOOD.as_bytes(), 0).unwrap();
        assert_eq!(through, Through::Bot("bot1".to_owned()));
        assert_eq!(order.content, r#"{"text":"hi"}"#);
        assert_eq!(order.encode(), parse(other.as_bytes(), 0).unwrap().1.encode());
        assert_eq!(SendOrder::decode(&order.encode()).unwrap(), order);
    }

    #[test]
    fn every_mistake_names_its_field() {
        for (found, wanted, field) in [
            (r#""bot":"bot1","#, "", "bot"),
            (r#""bot":"bot1""#, r#""bot":"bot1","pool":"p""#, "pool"),
            (r#""bot":"bot1""#, r#""bot":7"#, "bot"),
            (r#""to":"oc_1","#, "", "to"),
            (r#""oc_1""#, r#""""#, "to"),
            (r#""text","#, r#""dance","#, "msg_type"),
            (r#"{"text":"hi"}"#, r#""hi""#, "content"),
            (r#"{"text":"hi"}"#, r#""{\"text\":\"hi\"}""#, "content"),
            (r#"{"text":"hi"}"#, "{}", "content.text"),
            (r#"{"text":"hi"}"#, r#"{"text":""}"#, "content.text"),
            (r#""oc_1""#, r#""oc_1\n2026-11-30 ERROR forged""#, "to"),
            (r#""oc_1""#, r#""oc 1""#, "to"),
            (r#""bot":"bot1""#, r#""bot":"bot1","send_at":7"#, "send_at"),
            (r#""bot":"bot1""#, r#""bot":"bot1","send_at":"tomorrow""#, "send_at"),
            (
                r#""bot":"bot1""#,
                r#""bot":"bot1","send_at":"2999-01-01T00:00:00Z""#,
                "send_at",
            ),
            (r#""bot":"bot1""#, r#""bot":"bot1","colour":"red""#, "colour"),
        ] {
            let refusal = parse(GOOD.replacen(found, wanted, 1).as_bytes(), 0).unwrap_err();
            assert_eq!(refusal.code, Code::Malformed);
            assert!(
                refusal.message.starts_with(&format!("{field}: ")),
                "{}",
                refusal.message
            );
        }
        let forged = GOOD.replace("{\"bot\"", "{\"x\\n2026-11-30 ERROR forged\":1,\"bot\"");
        let refusal = parse(forged.as_bytes(), 0).unwrap_err();
        assert!(
            refusal.message.starts_with("x2026-11-30ERRORforged: unknown"),
            "{}",
            refusal.message
        );
        for nonsense in ["", "[]", "{"] {
            assert_eq!(parse(nonsense.as_bytes(), 0).unwrap_err().code, Code::Malformed);
        }
    }

    #[test]
    fn a_time_is_read_with_its_zone() {
        let timed = GOOD.replace("\"bot1\"", r#""bot1","send_at":"1970-01-01T01:00:01+01:00""#);
        assert_eq!(parse(timed.as_bytes(), 0).unwrap().1.send_at_ms, Some(1000));
    }

    #[test]
    fn feishus_own_limits_hold_at_the_door() {
        let sized = |kind: &str, content: &str, size: usize| {
            let body = GOOD
                .replace("\"text\",", &format!("\"{kind}\","))
                .replace(r#"{"text":"hi"}"#, &content.replace("hi", &"x".repeat(size)));
            parse(body.as_bytes(), 0).map_err(|refusal| refusal.code)
        };
        let text = r#"{"text":"hi"}"#;
        let card = r#"{"elements":[{"tag":"hi"}]}"#;
        let post = r#"{"zh_cn":{"content":[[{"tag":"text","text":"hi"}]]}}"#;
        assert!(sized("text", text, 149 * 1024).is_ok());
        assert_eq!(sized("text", text, 150 * 1024).unwrap_err(), Code::TooLarge);
        assert!(sized("interactive", card, 29 * 1024).is_ok());
        assert_eq!(sized("post", post, 30 * 1024).unwrap_err(), Code::TooLarge);
    }
}
