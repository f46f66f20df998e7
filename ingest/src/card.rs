//! What a card click is answered with: the bot's configured toast, at once. The worker may update the card later.

use std::borrow::Cow;

use openclaw_common::config::Toast;
use serde::Serialize;

#[derive(Serialize)]
struct Answer<'toast> {
    toast: ToastBody<'toast>,
}

#[derive(Serialize)]
struct ToastBody<'toast> {
    r#type: &'toast str,
    content: &'toast str,
}

/// The body of the answer; `{}` leaves the card as it is.
pub(crate) fn answer(toast: Option<&Toast>) -> Cow<'static, str> {
    let Some(toast) = toast else {
        return Cow::Borrowed("{}");
    };
    let answer = Answer {
        toast: ToastBody {
            r#type: &toast.kind,
            content: &toast.content,
        },
    };
    serde_json::to_string(&answer).map_or(Cow::Borrowed("{}"), Cow::Owned)
}
