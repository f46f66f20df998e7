//! Feishu's error codes and what to do about them.
//!
//! The code decides, never the HTTP status: one code comes as 200, 400 or 429 depending on the API and the year. What the
//! table does not know is judged by status, cautiously (see [`by_status`] and [`without_code`]).
//!
//! Do not "correct" this table after the official SDKs: their classifiers contradict the documentation (99991400 and 230020
//! are limits, 230017 is not a vanished target, 230022 is not a length).

use super::Scope;

/// What to do about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Not carried out: a limit of this scope. Pause it.
    Limited(Scope),
    /// Not carried out: try again later.
    Retry,
    /// Perhaps carried out: try again later with the same uuid.
    Unclear,
    /// Not carried out: the token is no longer valid. Renew it and try once more.
    Token,
    /// Not carried out, and never for this message or this target.
    Permanent,
    /// Not carried out until somebody changes the app, the tenant or the configuration.
    Operator,
}

use Class::{Limited, Operator, Permanent, Retry, Token, Unclear};
use Scope::{Api, Chat, Tenant};

/// One code.
pub(super) struct Row {
    code: i64,
    /// What to do.
    pub(super) class: Class,
    /// What it means, as the beginning of a sentence for the operator.
    pub(super) meaning: &'static str,
}

const fn row(code: i64, class: Class, meaning: &'static str) -> Row {
    Row { code, class, meaning }
}

/// By code, ascending: it is searched.
static TABLE: &[Row] = &[
    // Feishu's own trouble
    row(1500, Unclear, "Feishu had an internal error"),
    row(1663, Unclear, "Feishu had an internal error"),
    row(1668, Unclear, "Feishu had an internal error"),
    row(2200, Unclear, "Feishu had an internal error"),
    row(5000, Unclear, "Feishu had an internal error"),
    // The token endpoint
    row(10003, Operator, "the app id is unknown"),
    row(10012, Operator, "the app ticket is not valid"),
    row(10014, Operator, "the app secret is wrong, or the app is off"),
    row(10015, Operator, "the app secret is wrong, or the app is off"),
    row(10101, Unclear, "Feishu had an internal error"),
    // Limits of the older send APIs and of webhook bots
    row(11232, Retry, "Feishu's overall message limit is reached"),
    row(11233, Retry, "Feishu's message limit of the group is reached"),
    row(11247, Operator, "the app's daily quota of batch messages is used up"),
    row(55001, Unclear, "Feishu had an internal error"),
    row(65001, Unclear, "Feishu had an internal error"),
    // Cards updated by a click's token
    row(200_310, Permanent, "the card belongs to another app"),
    // Messages
    row(230_001, Permanent, "Feishu refuses a parameter"),
    row(230_002, Permanent, "the bot is not in the group"),
    row(230_006, Operator, "the app's bot ability is off"),
    row(230_011, Permanent, "the message was recalled"),
    row(
        230_013,
        Permanent,
        "the person is outside the app's availability, or has left",
    ),
    row(230_015, Permanent, "a one-to-one chat cannot be shared"),
    row(230_017, Permanent, "the resource does not belong to this bot"),
    row(230_018, Permanent, "the group's settings forbid it"),
    row(230_019, Permanent, "the topic does not exist"),
    row(230_020, Limited(Chat), "the limit of this chat or person is reached"),
    row(230_022, Permanent, "the content is sensitive"),
    row(230_025, Permanent, "the message is too long"),
    row(
        230_027,
        Operator,
        "the app lacks a permission, or the group is external",
    ),
    row(230_028, Permanent, "the content failed the data-loss audit"),
    row(230_029, Permanent, "the person has left"),
    row(
        230_031,
        Permanent,
        "the message is older than 14 days and cannot be changed",
    ),
    row(230_034, Permanent, "the receiver's id does not fit its type"),
    row(230_035, Permanent, "the bot may not speak here"),
    row(230_036, Operator, "the tenant's encryption key was deleted"),
    row(230_038, Permanent, "one-to-one chats across tenants are not allowed"),
    row(230_049, Unclear, "Feishu is still sending this message"),
    row(230_050, Permanent, "the bot cannot see the message"),
    row(230_053, Permanent, "the person stopped this bot's messages"),
    row(230_054, Permanent, "this message type is not supported here"),
    row(230_055, Permanent, "the file's type does not match the message type"),
    row(230_071, Permanent, "a reply in a thread is not supported here"),
    row(230_072, Permanent, "a reply in a thread is not supported here"),
    row(230_075, Permanent, "the chat is encrypted"),
    row(230_099, Permanent, "Feishu cannot make a card of the content"),
    row(230_110, Permanent, "the message was deleted"),
    row(230_111, Permanent, "the message is about to destroy itself"),
    row(232_009, Permanent, "the chat was dissolved"),
    // Cards updated by a click's token
    row(300_020, Permanent, "the click's token is not valid"),
    row(300_030, Permanent, "the click's token has expired"),
    row(300_040, Permanent, "the click's token was used up"),
    // The gateway
    row(99_991_400, Limited(Api), "the app's call limit is reached"),
    row(
        99_991_401,
        Operator,
        "this machine's address is not in the app's allow-list",
    ),
    row(99_991_403, Limited(Tenant), "the tenant's monthly calls are used up"),
    row(99_991_661, Operator, "the request carried no token"),
    row(99_991_662, Operator, "the app was stopped"),
    row(99_991_663, Token, "the tenant access token is not valid"),
    row(99_991_664, Token, "the access token is not valid"),
    row(99_991_665, Token, "the tenant access token is malformed"),
    row(99_991_668, Permanent, "the user access token is not valid"),
    row(99_991_671, Token, "the token's format is wrong"),
    row(99_991_672, Operator, "the app lacks a scope"),
    row(99_991_673, Operator, "the app is not available in this tenant"),
    row(99_991_679, Permanent, "the user did not grant the scope"),
    row(99_992_351, Permanent, "the id is unknown, or of another app or tenant"),
    row(99_992_354, Permanent, "the message is unknown"),
    row(99_992_355, Permanent, "the chat is unknown"),
    row(99_992_356, Permanent, "the chat is unknown"),
    row(99_992_360, Permanent, "the id is unknown, or of another app or tenant"),
    row(99_992_361, Permanent, "the id is unknown, or of another app or tenant"),
    row(99_992_364, Permanent, "the id is unknown, or of another app or tenant"),
    row(99_992_381, Permanent, "the id is unknown, or of another app or tenant"),
];

/// Codes that mean something else when Feishu's text says so (in lower case). They come before the table.
static BY_TEXT: &[(&str, Row)] = &[
    ("internal error", row(230_001, Unclear, "Feishu had an internal error")),
    (
        "card action is lock",
        row(230_099, Retry, "the card is locked by another change"),
    ),
];

/// What is known about a code with this text.
pub(super) fn look_up(code: i64, text: &str) -> Option<&'static Row> {
    if BY_TEXT.iter().any(|(_, row)| row.code == code) {
        let text = text.to_ascii_lowercase();
        if let Some((_, row)) = BY_TEXT
            .iter()
            .find(|(part, row)| row.code == code && text.contains(part))
        {
            return Some(row);
        }
    }
    let place = TABLE.binary_search_by_key(&code, |row| row.code).ok()?;
    TABLE.get(place)
}

/// Whether a permanent refusal says only that this app cannot reach this chat or person. A dissolved chat, a person who has
/// left and the tenant's used-up month are the same for all.
pub(super) fn is_about_one_bot(code: i64, needs_operator: bool) -> bool {
    let elsewhere = matches!(
        code,
        230_002 | 230_013 | 230_053 | 99_992_351 | 99_992_355 | 99_992_356 | 99_992_360 | 99_992_361 | 99_992_364
    );
    elsewhere || (needs_operator && code != 99_991_403)
}

/// A code that the table does not know. With 4xx Feishu has looked at the request and refused it; with 5xx nobody can say how
/// far it came.
pub(super) fn by_status(status: u16) -> Class {
    match status {
        429 => Limited(Api),
        408 | 500.. => Unclear,
        400..=499 => Permanent,
        _ => Retry,
    }
}

/// An answer that is not `{"code": …}`: something between us and Feishu spoke, or Feishu broke off.
pub(super) fn without_code(status: u16) -> (Class, &'static str) {
    match status {
        200..=299 => (Unclear, "the answer of a finished request is not readable"),
        300..=399 => (
            Operator,
            "the answer is a redirect: `feishu.base_url` is not the Open API's address",
        ),
        404 => (
            Operator,
            "the path does not exist: `feishu.base_url` is not the Open API's address",
        ),
        408 => (Unclear, "the request took too long"),
        413 => (Permanent, "the message is too large for something on the way to Feishu"),
        429 => (Limited(Api), "too many requests"),
        400..=499 => (Retry, "something on the way to Feishu refused the request"),
        _ => (Unclear, "Feishu or something on the way to it failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_row_is_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.code < b.code), "ascending, each code once");
        for row in TABLE {
            assert!(
                look_up(row.code, "").is_some_and(|found| std::ptr::eq(found, row)),
                "{}",
                row.code
            );
        }
        for (_, special) in BY_TEXT {
            assert!(
                look_up(special.code, "").is_some_and(|row| row.class != special.class),
                "{}",
                special.code
            );
        }
    }

    #[test]
    fn the_text_decides_only_for_its_own_code() {
        let class = |code, text| look_up(code, text).map(|row| row.class);
        assert_eq!(class(230_001, "x, ext=Internal Error"), Some(Unclear));
        assert_eq!(class(230_001, "card action is lock"), Some(Permanent));
        assert_eq!(class(230_099, "ext=ErrCode: 11310; Card action is lock"), Some(Retry));
        assert_eq!(class(230_002, "ext=Internal Error"), Some(Permanent));
        assert_eq!(class(424_242, "internal error"), None);
    }
}
