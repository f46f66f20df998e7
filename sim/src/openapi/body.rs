//! Request bodies: what is missing, of the wrong type, too long, or not what its type demands
//! (`docs/design/feishu-protocol.md` §6.2, §6.3).

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::send::Draft;
use super::target::Target;
use super::{Refusal, refusals};

/// The longest text request body.
const MAX_TEXT: usize = 150 * 1024;

/// The longest card or post.
const MAX_CARD: usize = 30 * 1024;

/// The longest uuid, in characters.
const MAX_UUID: usize = 50;

const RECEIVE_ID_TYPES: [&str; 5] = ["open_id", "union_id", "user_id", "email", "chat_id"];

const MSG_TYPES: [&str; 11] = [
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

#[derive(Deserialize)]
struct SendBody {
    receive_id: Option<Arc<str>>,
    msg_type: Option<Arc<str>>,
    content: Option<Arc<str>>,
    uuid: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct ReactionBody {
    reaction_type: Option<ReactionType>,
}

#[derive(Deserialize)]
struct ReactionType {
    emoji_type: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct CardUpdateBody<'body> {
    token: Option<Arc<str>>,
    #[serde(borrow)]
    card: Option<&'body RawValue>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "text")]
    _text: String,
}

/// The body of `create`: the receiver too, so that a call refused for another field is still counted where it aims.
pub(super) fn create(id_type: Option<&str>, body: &[u8]) -> (Option<Target>, Result<Draft, Refusal>) {
    let parsed: SendBody = match parse(body) {
        Ok(parsed) => parsed,
        Err(refusal) => return (None, Err(refusal)),
    };
    let Some(id_type) = id_type.and_then(|given| RECEIVE_ID_TYPES.into_iter().find(|known| *known == given)) else {
        let refusal = refusals::field(
            "receive_id_type",
            "receive_id_type is required, options: open_id, user_id, union_id, email, chat_id",
        );
        return (None, Err(refusal));
    };
    match parsed.receive_id.clone() {
        Some(id) if !id.is_empty() => (Some(Target::Receiver { id, id_type }), draft(parsed, body.len())),
        _ => (None, Err(refusals::field("receive_id", "receive_id is required"))),
    }
}

pub(super) fn reply(body: &[u8]) -> Result<Draft, Refusal> {
    draft(parse(body)?, body.len())
}

/// `PUT`: text and post only, and no uuid.
pub(super) fn edit(body: &[u8]) -> Result<Draft, Refusal> {
    let mut draft = draft(parse(body)?, body.len())?;
    draft.uuid = None;
    match &*draft.msg_type {
        "text" | "post" => Ok(draft),
        _ => Err(refusals::type_not_supported()),
    }
}

/// `PATCH`: a card's content.
pub(super) fn patch(body: &[u8]) -> Result<Draft, Refusal> {
    let parsed: SendBody = parse(body)?;
    let content = parsed
        .content
        .ok_or_else(|| refusals::field("content", "content is required"))?;
    card(content)
}

/// The delayed update: the card is an object here, not a string.
pub(super) fn card_update(body: &[u8]) -> (Option<Target>, Result<Draft, Refusal>) {
    let parsed: CardUpdateBody<'_> = match parse(body) {
        Ok(parsed) => parsed,
        Err(refusal) => return (None, Err(refusal)),
    };
    let Some(token) = parsed.token else {
        return (None, Err(refusals::field("token", "token is required")));
    };
    let draft = match parsed.card {
        Some(content) => card(content.get().into()),
        None => Err(refusals::field("card", "card is required")),
    };
    (Some(Target::CardToken(token)), draft)
}

pub(super) fn reaction(body: &[u8]) -> Result<Draft, Refusal> {
    let parsed: ReactionBody = parse(body)?;
    let emoji = parsed
        .reaction_type
        .and_then(|reaction| reaction.emoji_type)
        .filter(|emoji| !emoji.is_empty());
    Ok(Draft {
        msg_type: "reaction".into(),
        content: emoji.ok_or_else(|| refusals::field("reaction_type.emoji_type", "emoji_type is required"))?,
        uuid: None,
    })
}

/// For calls without a body.
pub(super) fn nothing() -> Draft {
    Draft {
        msg_type: "".into(),
        content: "".into(),
        uuid: None,
    }
}

pub(super) fn parse<'body, T: Deserialize<'body>>(body: &'body [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => refusals::field("body", "a field has the wrong type"),
        Category::Io | Category::Syntax | Category::Eof => refusals::not_json(),
    })
}

fn draft(parsed: SendBody, body_length: usize) -> Result<Draft, Refusal> {
    let msg_type = parsed
        .msg_type
        .ok_or_else(|| refusals::field("msg_type", "msg_type is required"))?;
    let content = parsed
        .content
        .ok_or_else(|| refusals::field("content", "content is required"))?;
    if parsed.uuid.as_ref().is_some_and(|uuid| uuid.chars().count() > MAX_UUID) {
        return Err(refusals::field("uuid", "the max len is 50"));
    }
    if !MSG_TYPES.contains(&&*msg_type) {
        return Err(refusals::parameter("invalid msg_type"));
    }
    let too_long = match &*msg_type {
        "interactive" | "post" => content.len() > MAX_CARD,
        _ => body_length > MAX_TEXT,
    };
    if too_long {
        return Err(refusals::too_long());
    }
    let well_formed = match &*msg_type {
        "text" => is_json::<Text>(&content),
        // Only the webhook bot's posts have the outer key.
        "post" => is_json::<std::collections::HashMap<String, IgnoredAny>>(&content) && !has_outer_post(&content),
        _ => is_json::<std::collections::HashMap<String, IgnoredAny>>(&content),
    };
    if !well_formed {
        return Err(refusals::parameter(
            "message content is not a string in json format of its msg_type",
        ));
    }
    Ok(Draft {
        msg_type,
        content,
        // An empty uuid is no uuid.
        uuid: parsed.uuid.filter(|uuid| !uuid.is_empty()),
    })
}

fn card(content: Arc<str>) -> Result<Draft, Refusal> {
    if content.len() > MAX_CARD {
        return Err(refusals::too_long());
    }
    if !is_json::<std::collections::HashMap<String, IgnoredAny>>(&content) {
        return Err(refusals::parameter("content is not a card"));
    }
    Ok(Draft {
        msg_type: "interactive".into(),
        content,
        uuid: None,
    })
}

fn is_json<T: DeserializeOwned>(content: &str) -> bool {
    serde_json::from_str::<T>(content).is_ok()
}

fn has_outer_post(content: &str) -> bool {
    #[derive(Deserialize)]
    struct Outer {
        post: Option<IgnoredAny>,
    }
    serde_json::from_str::<Outer>(content).is_ok_and(|outer| outer.post.is_some())
}
