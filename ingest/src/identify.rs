//! Which event a push is: its key, its lane, and that it is meant for this bot.

use std::sync::Arc;

use openclaw_common::bot::Bot;
use openclaw_common::crypto::same_secret;
use openclaw_common::envelope::{Envelope, EventKey, OWN_TYPES, Origin};
use openclaw_common::time::now_ms;

use crate::document::{Document, Text, complaint};
use crate::id;
use crate::reply::{Code, Refusal};
use crate::send::SEND_KEYS;
use crate::verify::{Opened, Proof, unsigned};

/// Feishu's are below 40 bytes.
const LONGEST_CHALLENGE: usize = 256;
/// The keys of old card clicks begin so.
const OLD_CARD_KEYS: &str = "card-";
/// Behind the beginning of a key that is made here stand so many hexadecimal digits.
const KEY_DIGITS: usize = 32;
/// The old card callback names no type; this is its name in Feishu's documentation.
const OLD_CARD: &str = "card.action.trigger_v1";

/// What was pushed.
#[derive(Debug)]
pub(crate) enum Push {
    /// Feishu checks that this address is the bot's; echo it.
    Challenge(String),
    /// To be stored.
    Event {
        envelope: Envelope,
        /// Whether a person waits for the answer to a click.
        card: bool,
    },
}

/// What an event's parts say, before it becomes an envelope.
struct Parts<'json> {
    key: Arc<str>,
    event_type: &'json str,
    tenant: &'json str,
    created_ms: i64,
    chat: &'json Text<'json>,
    open_chat: &'json Text<'json>,
    person: &'json Text<'json>,
    card: bool,
}

/// Reads a verified body.
pub(crate) fn identify(bot: &Bot, opened: &Opened) -> Result<Push, Refusal> {
    // Whoever has no signature could have somebody else's ciphertext, changed here and there: what it says is not told.
    let tells = opened.proof != Proof::Unsigned || bot.credentials.encrypt_key.is_none();
    read(bot, opened).map_err(|refusal| if tells { refusal } else { unsigned() })
}

/// `docs/design/feishu-protocol.md` §1.4: `schema`, else `uuid`, else a challenge, else an old card.
fn read(bot: &Bot, opened: &Opened) -> Result<Push, Refusal> {
    let document: Document<'_> = serde_json::from_slice(&opened.body)
        .map_err(|error| Refusal::malformed(format!("the body is not a push: {}", complaint(&error))))?;
    let has_schema = !document.schema.as_str().is_empty();
    let has_uuid = !document.uuid.as_str().is_empty();
    if !has_schema && !has_uuid && document.r#type.as_str() == "url_verification" {
        check_token(bot, &document.token)?;
        return challenge(document.challenge.as_str());
    }
    if !document.encrypt.as_str().is_empty() {
        return Err(match bot.credentials.encrypt_key {
            None => Refusal::malformed("the body is encrypted, but the bot has no `encrypt_key` in its credentials"),
            Some(_) if opened.proof == Proof::SignedCard => unsigned(),
            Some(_) => Refusal::malformed("the body is encrypted twice"),
        });
    }
    let parts = if has_schema {
        v2(bot, opened.proof, &document)?
    } else if has_uuid {
        v1(bot, opened.proof, &document)?
    } else if !document.open_message_id.as_str().is_empty() {
        old_card(opened.proof, &document)?
    } else {
        return Err(Refusal::malformed(
            "the body is neither an event nor a challenge nor a card click",
        ));
    };
    let card = parts.card;
    let envelope = envelope(bot, opened, parts)?;
    Ok(Push::Event { envelope, card })
}

/// What is echoed is short and plain: no address of ours says what somebody else wants it to say.
fn challenge(text: &str) -> Result<Push, Refusal> {
    let printable = |byte: u8| matches!(byte, b' '..=b'~');
    if (1..=LONGEST_CHALLENGE).contains(&text.len()) && text.bytes().all(printable) {
        return Ok(Push::Challenge(text.to_owned()));
    }
    Err(Refusal::malformed(format!(
        "the challenge is not 1 to {LONGEST_CHALLENGE} printable ASCII characters"
    )))
}

fn v2<'json>(bot: &Bot, proof: Proof, document: &'json Document<'json>) -> Result<Parts<'json>, Refusal> {
    let Some(header) = &document.header else {
        return Err(Refusal::malformed("the event has no `header`"));
    };
    authenticate(bot, proof, &header.token, header.app_id.as_str())?;
    let event_type = header.event_type.as_str();
    // Feishu changes `event_id` between re-pushes of one message: its documentation says to use `message_id`.
    let key = match event_type {
        "im.message.receive_v1" => document.event.message_id.or(header.event_id.as_str()),
        _ => header.event_id.as_str(),
    };
    Ok(Parts {
        key: foreign(key)?,
        event_type,
        tenant: header.tenant_key.as_str(),
        created_ms: unix_ms(header.create_time.as_str()),
        chat: &document.event.chat_id,
        open_chat: &document.event.open_chat_id,
        person: &document.event.open_id,
        card: event_type == "card.action.trigger",
    })
}

fn v1<'json>(bot: &Bot, proof: Proof, document: &'json Document<'json>) -> Result<Parts<'json>, Refusal> {
    let event = &document.event;
    authenticate(bot, proof, &document.token, event.app_id.as_str())?;
    Ok(Parts {
        key: foreign(document.uuid.as_str())?,
        event_type: event.r#type.as_str(),
        tenant: event.tenant_key.as_str(),
        created_ms: unix_ms(document.ts.as_str()),
        chat: &event.chat_id,
        open_chat: &event.open_chat_id,
        person: &event.open_id,
        card: false,
    })
}

/// It carries no verification token and no app: its signature, made with the token, is all there is.
fn old_card<'json>(proof: Proof, document: &'json Document<'json>) -> Result<Parts<'json>, Refusal> {
    if proof == Proof::Unsigned {
        return Err(Refusal::new(
            Code::BadSignature,
            "an old card callback needs its SHA-1 signature and `security.legacy_cards: true`",
        ));
    }
    // The click's own token tells clicks apart. It can update the card for half an hour, so only its hash becomes a key.
    let click = document.token.as_str();
    if click.is_empty() {
        return Err(Refusal::malformed("the card click has no `token`"));
    }
    let digest = blake3::hash(click.as_bytes());
    Ok(Parts {
        key: format!("{OLD_CARD_KEYS}{}", hex::encode(&digest.as_bytes()[..16])).into(),
        event_type: OLD_CARD,
        tenant: document.tenant_key.as_str(),
        created_ms: 0,
        chat: &document.open_chat_id,
        open_chat: &document.open_chat_id,
        person: &document.open_id,
        card: true,
    })
}

/// Requires the signature, then the token, then the app.
fn authenticate(bot: &Bot, proof: Proof, token: &Text<'_>, app_id: &str) -> Result<(), Refusal> {
    let by_token_alone = bot.credentials.encrypt_key.is_none() && bot.security.allow_plaintext;
    if proof != Proof::Signed && !by_token_alone {
        return Err(unsigned());
    }
    check_token(bot, token)?;
    if app_id != &*bot.credentials.app_id {
        return Err(Refusal::new(
            Code::BadToken,
            "the event belongs to another app than this bot's `app_id`",
        ));
    }
    Ok(())
}

fn check_token(bot: &Bot, token: &Text<'_>) -> Result<(), Refusal> {
    if same_secret(token.as_str(), bot.credentials.verification_token.expose()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::BadToken,
        "the token is not the bot's `verification_token`",
    ))
}

fn envelope(bot: &Bot, opened: &Opened, parts: Parts<'_>) -> Result<Envelope, Refusal> {
    if parts.key.is_empty() || parts.event_type.is_empty() {
        return Err(Refusal::malformed("the event has no id or no type"));
    }
    let ids = [
        ("id", &*parts.key),
        ("type", parts.event_type),
        ("tenant", parts.tenant),
        ("chat id", parts.chat.as_str()),
        ("open chat id", parts.open_chat.as_str()),
        ("open id", parts.person.as_str()),
    ];
    for (name, text) in ids {
        if let Some(complaint) = id::complaint(text) {
            return Err(Refusal::malformed(format!("the event's {name} {complaint}")));
        }
    }
    if begins(parts.event_type, OWN_TYPES) {
        return Err(Refusal::malformed(format!(
            "the event's type begins with `{OWN_TYPES}`, as only OpenClaw's own do"
        )));
    }
    let lane = parts.chat.or(parts.open_chat.or(parts.person.or(&parts.key)));
    Ok(Envelope {
        origin: Origin::Push,
        event_type: parts.event_type.into(),
        chat: lane.into(),
        tenant: parts.tenant.into(),
        key: EventKey {
            app_id: bot.credentials.app_id.clone(),
            key: parts.key,
        },
        bot: bot.id.clone(),
        created_ms: parts.created_ms,
        received_ms: now_ms(),
        traceparent: None,
        body: opened.body.clone(),
    })
}

/// The key that a push brings. Those that are made here are another name space: nobody takes the place of a send.
fn foreign(key: &str) -> Result<Arc<str>, Refusal> {
    let made_here = |own: &str| {
        let digits = key.strip_prefix(own).and_then(|rest| rest.get(..KEY_DIGITS));
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    if [SEND_KEYS, OLD_CARD_KEYS].into_iter().any(made_here) {
        return Err(Refusal::malformed(
            "the event's id has the form of those that OpenClaw makes",
        ));
    }
    Ok(key.into())
}

fn begins(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Feishu writes times in seconds, milliseconds or microseconds (`docs/design/feishu-protocol.md` §1.2): the number of digits tells.
/// 0 for what is no time.
fn unix_ms(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let Ok(number) = whole.parse::<i64>() else {
        return 0;
    };
    match whole.len() {
        0..=11 => {
            let millis: i64 = format!("{fraction:0<3}")
                .get(..3)
                .map_or(0, |digits| digits.parse().unwrap_or(0));
            number.saturating_mul(1000).saturating_add(millis)
        }
        12..=14 => number,
        _ => number / 1000,
    }
}

#[cfg(test)]
mod tests;
