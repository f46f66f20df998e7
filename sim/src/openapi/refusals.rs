//! Every error the simulated platform gives by itself, with the HTTP status and code of `docs/design/feishu-protocol.md` §7.5.

use std::borrow::Cow;

use super::Refusal;
use super::limits::Full;

fn refuse(http: u16, code: i64, msg: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal {
        http,
        code,
        msg: msg.into(),
        field: None,
        limited: None,
    }
}

pub(crate) fn unknown_app() -> Refusal {
    refuse(200, 10003, "invalid app_id")
}

pub(crate) fn wrong_secret() -> Refusal {
    refuse(200, 10014, "app secret invalid")
}

pub(crate) fn token_missing() -> Refusal {
    refuse(
        400,
        99_991_661,
        "Missing access token for authorization. Please make a test attempt with the correct token.",
    )
}

pub(crate) fn token_invalid() -> Refusal {
    refuse(
        400,
        99_991_663,
        "Invalid access token for authorization. Please make a test attempt with the correct token.",
    )
}

pub(crate) fn user_token_invalid() -> Refusal {
    refuse(
        400,
        99_991_668,
        "Invalid access token for authorization: a user access token is not accepted here.",
    )
}

pub(crate) fn token_malformed() -> Refusal {
    refuse(
        400,
        99_991_671,
        "Invalid access token for authorization: it must begin with t- or u-.",
    )
}

/// The body is no JSON at all.
pub(crate) fn not_json() -> Refusal {
    refuse(400, 9499, "Invalid parameter type in json: body")
}

/// A field is missing, of the wrong type or too long.
pub(crate) fn field(name: &'static str, description: &'static str) -> Refusal {
    Refusal {
        field: Some((name, description)),
        ..refuse(400, 99_992_402, "field validation failed")
    }
}

/// A parameter is well formed and wrong.
pub(crate) fn parameter(ext: &str) -> Refusal {
    refuse(
        400,
        230_001,
        format!("Your request contains an invalid request parameter, ext={ext}"),
    )
}

pub(crate) fn not_in_chat() -> Refusal {
    refuse(400, 230_002, "The bot can not be outside the group.")
}

pub(crate) fn recalled() -> Refusal {
    refuse(400, 230_011, "The message was withdrawn.")
}

pub(crate) fn not_owner() -> Refusal {
    refuse(400, 230_017, "Bot is NOT the owner of the resource.")
}

pub(crate) fn frequency(what: &str) -> Refusal {
    let msg = format!("The operation triggers the frequency limit, ext={what} rate limit");
    refuse(400, 230_020, msg)
}

pub(crate) fn too_long() -> Refusal {
    refuse(400, 230_025, "The length of the message content reaches its limit.")
}

pub(crate) fn too_old() -> Refusal {
    refuse(
        400,
        230_031,
        "The message has been sent for more than 14 days and cannot be updated.",
    )
}

pub(crate) fn in_flight() -> Refusal {
    refuse(400, 230_049, "The message is being sent.")
}

pub(crate) fn type_not_supported() -> Refusal {
    refuse(400, 230_054, "This operation is not supported for this message type.")
}

/// The twenty edits are used up (`PUT` only; the same code means something else for a reply).
pub(crate) fn edited_too_often() -> Refusal {
    refuse(
        400,
        230_072,
        "The message has reached the number of times it can be edited.",
    )
}

pub(crate) fn message_unknown() -> Refusal {
    refuse(
        400,
        99_992_354,
        "The request you send is not a valid {message_id} or not exists.",
    )
}

pub(crate) fn card_token_invalid() -> Refusal {
    refuse(200, 300_020, "card update token invalid")
}

pub(crate) fn card_token_expired() -> Refusal {
    refuse(200, 300_030, "card update token expired")
}

pub(crate) fn card_token_used_up() -> Refusal {
    refuse(200, 300_040, "card update token has been used twice")
}

pub(crate) fn other_apps_card() -> Refusal {
    refuse(200, 200_310, "the card belongs to another app")
}

/// The gateway's limit, HTTP 429.
pub(crate) fn gateway(full: Full) -> Refusal {
    Refusal {
        limited: Some((full.limit, full.reset)),
        ..refuse(429, 99_991_400, "request trigger frequency limit")
    }
}

/// The tenant's month is used up. Its HTTP status is unconfirmed; 429 is what has been reported.
pub(crate) fn monthly_quota() -> Refusal {
    refuse(429, 99_991_403, "This month's API call quota has been exceeded")
}
