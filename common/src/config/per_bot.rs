//! The sections that the node sets for all bots and a bot may set for itself, key by key.

use std::time::Duration;

use super::section::{Quote, Section};
use super::{
    Account, Budget, Feishu, Handler, Message, OnStale, OnUnknown, Order, Pattern, Quota, Rate, RetryPolicy, Rule,
    Security, SendKind, Toast, address, scalar,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// RabbitMQ 4 refuses messages over 16 MiB by default, and a body grows a little on its way.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// Largest compiled size of one rule's regex, bytes; thousands of rules stay affordable, `(a{1000}){1000}` does not pass.
pub const REGEX_SIZE: usize = 1024 * 1024;

/// The five sections: what a bot has of its own, laid over what it inherits.
#[derive(Clone, Default)]
pub(super) struct PerBot {
    pub(super) message: Message,
    pub(super) quota: Quota,
    pub(super) handler: Handler,
    pub(super) security: Security,
    pub(super) feishu: Feishu,
}

impl PerBot {
    /// Lays what `root` says over what is there.
    pub(super) fn read(&mut self, root: &mut Section<'_>) {
        root.nested("message", |section| message(section, &mut self.message));
        root.nested("quota", |section| quota(section, &mut self.quota));
        root.nested("handler", |section| handler(section, &mut self.handler));
        root.nested("security", |section| security(section, &mut self.security));
        root.nested("feishu", |section| feishu(section, &mut self.feishu));
    }
}

fn message(section: &mut Section<'_>, message: &mut Message) {
    section.set(
        "queue_size",
        &mut message.queue_size,
        scalar::integer(1..=1_000_000_000),
    );
    section.nested("retry_policy", |section| retry_policy(section, &mut message.retry));
    section.set("max_age", &mut message.max_age, scalar::duration(SECOND));
    let on_stale = [
        ("dead_letter", OnStale::DeadLetter),
        ("drop", OnStale::Drop),
        ("reply", OnStale::Reply),
    ];
    section.set("on_stale", &mut message.on_stale, scalar::choice(&on_stale));
    let on_unknown = [
        ("park", OnUnknown::Park),
        ("resend", OnUnknown::Resend),
        ("drop", OnUnknown::Drop),
    ];
    section.set("on_unknown", &mut message.on_unknown, scalar::choice(&on_unknown));
    let order = [("relaxed", Order::Relaxed), ("strict", Order::Strict)];
    section.set("order", &mut message.order, scalar::choice(&order));
    section.set("dedup_ttl", &mut message.dedup_ttl, scalar::duration(SECOND));
}

fn retry_policy(section: &mut Section<'_>, retry: &mut RetryPolicy) {
    section.set("max_attempts", &mut retry.max_attempts, scalar::integer(1..=1000));
    section.set("backoff", &mut retry.backoff, scalar::duration(MILLISECOND));
    section.set("multiplier", &mut retry.multiplier, scalar::multiplier);
    section.set("max_backoff", &mut retry.max_backoff, scalar::duration(MILLISECOND));
}

fn quota(section: &mut Section<'_>, quota: &mut Quota) {
    section.set("bot", &mut quota.bot, scalar::rate);
    section.set("chat", &mut quota.chat, scalar::rate);
    section.set("user", &mut quota.user, scalar::rate);
    section.set("card", &mut quota.card, scalar::rate);
    if section.is_list("app") {
        section.set_list("app", &mut quota.app, scalar::some_rate);
    } else if let Some(rate) = section.take("app", scalar::rate) {
        quota.app = rate.into_iter().collect();
    }
    if section.is_null("account") {
        quota.account = None;
    }
    section.nested("account", |section| account(section, &mut quota.account));
    section.set("max_workers", &mut quota.max_workers, scalar::integer(1..=100_000));
    section.nested("budget", |section| budget(section, &mut quota.budget));
}

fn account(section: &mut Section<'_>, account: &mut Option<Account>) {
    if section.is_empty() {
        return;
    }
    let inherited = account.take();
    let (name, limit): (Option<String>, Option<Option<Rate>>) = match inherited {
        Some(inherited) => (
            section.take("name", scalar::text).or(Some(inherited.name)),
            section.take("limit", scalar::rate).or(Some(inherited.limit)),
        ),
        None => (
            section.require("name", scalar::text),
            section.require("limit", scalar::rate),
        ),
    };
    *account = name.zip(limit).map(|(name, limit)| Account { name, limit });
}

fn budget(section: &mut Section<'_>, budget: &mut Budget) {
    section.set("calls", &mut budget.calls, |text| match text {
        "off" => Ok(None),
        _ => scalar::integer(1..=u64::MAX)(text)
            .map(Some)
            .map_err(|_| "is not a number of calls a month, nor off".to_owned()),
    });
    let kinds = [("notify", SendKind::Notify), ("reply", SendKind::Reply)];
    section.set_list("degrade", &mut budget.degrade, scalar::choice(&kinds));
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Echo,
    Rules,
}

fn handler(section: &mut Section<'_>, handler: &mut Handler) {
    let written = section.take("kind", scalar::choice(&[("echo", Kind::Echo), ("rules", Kind::Rules)]));
    if written.is_none() && section.has("kind") {
        // It has been reported. What stands beside it may belong to the kind that was meant.
        section.leave_the_rest();
        return;
    }
    let inherited = match handler {
        Handler::Echo => Kind::Echo,
        Handler::Rules(_) => Kind::Rules,
    };
    let rules = section.items("rules", rule);
    match written.unwrap_or(inherited) {
        Kind::Echo => {
            if section.has("rules") {
                section.mistake(
                    "rules",
                    "has no meaning for `kind: echo`: write `kind: rules` or remove it",
                );
            }
            *handler = Handler::Echo;
        }
        Kind::Rules => match rules {
            Some(rules) if rules.is_empty() => section.mistake("rules", "is empty: write at least one rule"),
            Some(rules) => *handler = Handler::Rules(rules),
            None if inherited == Kind::Echo => section.report_missing("rules"),
            None => {}
        },
    }
}

fn rule(section: &mut Section<'_>) -> Option<Rule> {
    let keyword = section.take("keyword", scalar::text).map(Pattern::Keyword);
    let prefix = section.take("prefix", scalar::text).map(Pattern::Prefix);
    let regex = section.take("regex", regex).map(Pattern::Regex);
    let reply = section.require("reply", reply);
    let written = ["keyword", "prefix", "regex"]
        .into_iter()
        .filter(|key| section.has(key))
        .count();
    if written != 1 {
        section.own_mistake("needs exactly one of keyword, prefix and regex");
        return None;
    }
    let pattern = keyword.or(prefix).or(regex)?;
    Some(Rule { pattern, reply: reply? })
}

fn regex(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    match regex::RegexBuilder::new(text)
        .size_limit(REGEX_SIZE)
        .dfa_size_limit(REGEX_SIZE)
        .build()
    {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err("is too large: repeat less".to_owned()),
        // The library draws the pattern over several lines and ends with what is wrong.
        Err(error) => {
            let whole = error.to_string();
            let last = whole.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("is not a regular expression: {last}"))
        }
    }
}

fn reply(text: &str) -> Result<String, String> {
    let checked = scalar::text(text)?;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        rest = &rest[at..];
        let known = ["{{", "}}", "{text}", "{sender}"]
            .into_iter()
            .find(|part| rest.starts_with(part));
        let Some(known) = known else {
            return Err("has a brace that is neither {text} nor {sender}: write `{{` and `}}` for braces".to_owned());
        };
        rest = &rest[known.len()..];
    }
    Ok(checked)
}

fn security(section: &mut Section<'_>, security: &mut Security) {
    section.set_list("allowed_ips", &mut security.allowed_ips, scalar::network);
    section.set_list("trusted_proxies", &mut security.trusted_proxies, scalar::network);
    if let Some(paths) = section.take_list("safe_paths", Quote::Value, scalar::safe_path) {
        if paths.is_empty() {
            section.mistake("safe_paths", "is empty: every push would be refused; write [/webhook]");
        }
        security.safe_paths = paths;
    }
    section.set("rate_limit", &mut security.rate_limit, scalar::rate);
    section.set("max_body", &mut security.max_body, scalar::size(1..=MAX_BODY));
    section.set("allow_plaintext", &mut security.allow_plaintext, scalar::boolean);
    section.set("legacy_cards", &mut security.legacy_cards, scalar::boolean);
}

fn feishu(section: &mut Section<'_>, feishu: &mut Feishu) {
    section.set("base_url", &mut feishu.base_url, address::base_url);
    if section.is_null("card_toast") {
        feishu.card_toast = None;
    }
    section.nested("card_toast", |section| toast(section, &mut feishu.card_toast));
}

fn toast(section: &mut Section<'_>, toast: &mut Option<Toast>) {
    if section.is_empty() {
        return;
    }
    let inherited = toast.take();
    let kinds = [
        ("info", "info"),
        ("success", "success"),
        ("error", "error"),
        ("warning", "warning"),
    ];
    let (kind, content) = match inherited {
        Some(inherited) => (
            section
                .take("type", scalar::choice(&kinds))
                .map(str::to_owned)
                .or(Some(inherited.kind)),
            section.take("content", scalar::text).or(Some(inherited.content)),
        ),
        None => (
            section.require("type", scalar::choice(&kinds)).map(str::to_owned),
            section.require("content", scalar::text),
        ),
    };
    *toast = kind.zip(content).map(|(kind, content)| Toast { kind, content });
}
