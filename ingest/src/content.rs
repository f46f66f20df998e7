//! What a message's `content` has to be for its type (`docs/design/feishu-protocol.md` §6.3): a mistake told at the door would be a dead
//! letter later. Refused is what Feishu is known to refuse, and what can be nothing but a slip; the rest it judges itself.

use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// What is wrong with `content`, as a sentence that begins with the field.
pub(crate) fn check(msg_type: &str, content: &Object) -> Result<(), String> {
    match msg_type {
        "text" => filled(content, "text", "{\"text\": \"hello\"}"),
        "post" => post(content),
        "interactive" => card(content),
        "image" => filled(content, "image_key", "{\"image_key\": \"img_…\"}"),
        "file" | "audio" | "sticker" => filled(content, "file_key", "{\"file_key\": \"file_…\"}"),
        "media" => {
            filled(content, "file_key", "{\"file_key\": \"file_…\"}")?;
            match content.get("image_key") {
                None | Some(Value::Null | Value::String(_)) => Ok(()),
                Some(_) => Err("content.image_key: must be a string".to_owned()),
            }
        }
        "share_chat" => filled(content, "chat_id", "{\"chat_id\": \"oc_…\"}"),
        "share_user" => filled(content, "user_id", "{\"user_id\": \"ou_…\"}"),
        _ if content.is_empty() => Err("content: is empty".to_owned()),
        _ => Ok(()),
    }
}

/// A text that says something.
fn filled(object: &Object, name: &str, example: &str) -> Result<(), String> {
    match object.get(name) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("content.{name}: is empty")),
        Some(Value::String(_)) => Ok(()),
        Some(_) => Err(format!("content.{name}: must be a string")),
        None => Err(format!("content.{name}: is missing: write {example}")),
    }
}

/// By language, paragraphs of elements: `{"zh_cn": {"title": "…", "content": [[{"tag": "text", "text": "…"}]]}}`.
fn post(content: &Object) -> Result<(), String> {
    const EXAMPLE: &str =
        "write {\"zh_cn\": {\"title\": \"…\", \"content\": [[{\"tag\": \"text\", \"text\": \"…\"}]]}}";
    if content.is_empty() {
        return Err(format!("content: is empty: {EXAMPLE}"));
    }
    for wrapper in ["post", "content", "title"] {
        // `post` around it is for custom robots only; without a language it is the form of events.
        if content.contains_key(wrapper) {
            return Err(format!("content.{wrapper}: a post begins with its language: {EXAMPLE}"));
        }
    }
    for body in content.values() {
        let Some(body) = body.as_object() else {
            return Err(format!("content: a language of the post holds no object: {EXAMPLE}"));
        };
        if !matches!(body.get("title"), None | Some(Value::Null | Value::String(_))) {
            return Err("content.….title: must be a string".to_owned());
        }
        let paragraphs = body.get("content").and_then(Value::as_array);
        let Some(paragraphs) = paragraphs.filter(|paragraphs| !paragraphs.is_empty()) else {
            return Err(format!("content.….content: must be a list of paragraphs: {EXAMPLE}"));
        };
        for paragraph in paragraphs {
            let Some(elements) = paragraph.as_array() else {
                return Err(format!(
                    "content.….content: each paragraph must be a list of elements: {EXAMPLE}"
                ));
            };
            if !elements
                .iter()
                .all(|element| element.get("tag").is_some_and(Value::is_string))
            {
                return Err(format!(
                    "content.….content: each element must be an object with a `tag`: {EXAMPLE}"
                ));
            }
        }
    }
    Ok(())
}

/// A card itself, or the name of one: `{"type": "template", "data": {"template_id": "…"}}`, `{"type": "card", "data":
/// {"card_id": "…"}}`.
fn card(content: &Object) -> Result<(), String> {
    if content.is_empty() {
        return Err("content: the card is empty".to_owned());
    }
    let named = [("template", "template_id"), ("card", "card_id")];
    for (kind, id) in named {
        if content.contains_key(id) {
            return Err(format!(
                "content.{id}: belongs into {{\"type\": \"{kind}\", \"data\": {{\"{id}\": \"…\"}}}}"
            ));
        }
        if content.get("type").and_then(Value::as_str) == Some(kind) {
            let Some(data) = content.get("data").and_then(Value::as_object) else {
                return Err(format!("content.data: must be an object, such as {{\"{id}\": \"…\"}}"));
            };
            return match data.get(id) {
                Some(Value::String(text)) if !text.is_empty() => Ok(()),
                _ => Err(format!("content.data.{id}: is missing")),
            };
        }
    }
    for (name, is_right, wanted) in [
        ("elements", Value::is_array as fn(&Value) -> bool, "a list"),
        ("body", Value::is_object, "an object"),
        ("header", Value::is_object, "an object"),
        ("config", Value::is_object, "an object"),
        ("i18n_elements", Value::is_object, "an object"),
    ] {
        if content.get(name).is_some_and(|value| !is_right(value)) {
            return Err(format!("content.{name}: must be {wanted}"));
        }
    }
    let shown = ["elements", "body", "header", "i18n_elements", "i18n_header"];
    if !shown.iter().any(|name| content.contains_key(*name)) {
        return Err("content: a card needs `elements` (or, with `\"schema\": \"2.0\"`, a `body`)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use serde_json::json;

    use super::*;

    fn checked(msg_type: &str, content: &Value) -> Result<(), String> {
        check(msg_type, content.as_object().unwrap())
    }

    #[test]
    fn what_feishu_takes_passes() {
        for (msg_type, content) in [
            ("text", json!({ "text": "hi <at user_id=\"all\"></at>" })),
            (
                "post",
                json!({ "zh_cn": { "content": [[{ "tag": "text", "text": "你好" }], []] } }),
            ),
            (
                "post",
                json!({ "en_us": { "title": "t", "content": [[{ "tag": "hr" }]] }, "ja_jp": { "content": [[]] } }),
            ),
            ("interactive", json!({ "elements": [] })),
            ("interactive", json!({ "schema": "2.0", "body": { "elements": [] } })),
            ("interactive", json!({ "header": { "title": {} } })),
            (
                "interactive",
                json!({ "type": "template", "data": { "template_id": "AAq" } }),
            ),
            ("interactive", json!({ "type": "card", "data": { "card_id": "7" } })),
            ("image", json!({ "image_key": "img_1" })),
            ("file", json!({ "file_key": "file_1" })),
            ("media", json!({ "file_key": "file_1", "image_key": null })),
            ("share_user", json!({ "user_id": "ou_1" })),
            ("system", json!({ "type": "divider" })),
        ] {
            assert_eq!(checked(msg_type, &content), Ok(()), "{msg_type} {content}");
        }
    }

    #[test]
    fn every_mistake_names_its_field() {
        for (msg_type, content, field) in [
            ("text", json!({}), "content.text"),
            ("text", json!({ "text": "" }), "content.text"),
            ("text", json!({ "text": " \n" }), "content.text"),
            ("text", json!({ "text": 7 }), "content.text"),
            ("text", json!({ "text": null }), "content.text"),
            ("text", json!({ "txt": "hi" }), "content.text"),
            ("post", json!({}), "content"),
            ("post", json!({ "post": { "zh_cn": {} } }), "content.post"),
            ("post", json!({ "title": "", "content": [[]] }), "content.content"),
            ("post", json!({ "zh_cn": "hi" }), "content"),
            ("post", json!({ "zh_cn": { "title": "t" } }), "content.….content"),
            ("post", json!({ "zh_cn": { "content": [] } }), "content.….content"),
            (
                "post",
                json!({ "zh_cn": { "content": [{ "tag": "text" }] } }),
                "content.….content",
            ),
            ("post", json!({ "zh_cn": { "content": [["hi"]] } }), "content.….content"),
            (
                "post",
                json!({ "zh_cn": { "title": 1, "content": [[]] } }),
                "content.….title",
            ),
            ("interactive", json!({}), "content"),
            ("interactive", json!({ "text": "hi" }), "content"),
            ("interactive", json!({ "elements": {} }), "content.elements"),
            ("interactive", json!({ "card_id": "7" }), "content.card_id"),
            ("interactive", json!({ "template_id": "AAq" }), "content.template_id"),
            ("interactive", json!({ "type": "template" }), "content.data"),
            (
                "interactive",
                json!({ "type": "card", "data": {} }),
                "content.data.card_id",
            ),
            ("image", json!({ "file_key": "img_1" }), "content.image_key"),
            ("audio", json!({ "file_key": "" }), "content.file_key"),
            ("media", json!({ "image_key": "img_1" }), "content.file_key"),
            ("media", json!({ "file_key": "f", "image_key": 1 }), "content.image_key"),
            ("share_chat", json!({ "chat_id": [] }), "content.chat_id"),
            ("share_user", json!({ "open_id": "ou_1" }), "content.user_id"),
            ("system", json!({}), "content"),
        ] {
            let sentence = checked(msg_type, &content).unwrap_err();
            assert!(
                sentence.starts_with(&format!("{field}: ")),
                "{msg_type} {content}: {sentence}"
            );
        }
    }
}
