//! The `uuid` of an action: what lets Feishu drop the second copy of a send.
//!
//! Feishu keeps at most one success per uuid for an hour (50 characters at most). It is a pure function of what the action
//! *is*, never of when or by whom it is tried, so that every worker that ever tries it says the same. Only "send it again"
//! makes a new one: an operator's from the replay's number, the policy `on_unknown: resend` from the old one.

use data_encoding::BASE32_NOPAD;

use crate::envelope::EventKey;

/// The uuid of action `index` of an event: `oc` and 40 characters of base32.
///
/// `generation` is 0 for the plan's own uuid, else the replay that decided to send a copy again.
#[must_use]
pub fn action_uuid(key: &EventKey, index: u32, kind: &str, generation: u32) -> String {
    let mut name = format!("{}|{}|{index}|{kind}", key.app_id, key.key);
    if generation > 0 {
        name.push('|');
        name.push_str(&generation.to_string());
    }
    uuid(&name)
}

/// The uuid under which an action is sent once more when nobody can tell whether `uuid` was. No action has it as its own.
#[must_use]
pub fn renewed(uuid: &str) -> String {
    self::uuid(&format!("{uuid}|renewed"))
}

fn uuid(name: &str) -> String {
    // 25 bytes are exactly 40 characters.
    let mut text = BASE32_NOPAD.encode(&blake3::hash(name.as_bytes()).as_bytes()[..25]);
    text.make_ascii_lowercase();
    text.insert_str(0, "oc");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fixed for ever: a new version of the program must not send what an old one already sent.
    #[test]
    fn the_uuid_of_an_action_never_changes() {
        let key = EventKey::new("cli_a1", "om_1");
        assert_eq!(
            action_uuid(&key, 0, "reply", 0),
            "oc4rxfenc6nmqh7ovurnwqhrprfzqpaquvfvwxjoro"
        );
        assert_eq!(
            action_uuid(&key, 0, "reply", 1),
            "ocinm2qt25p46vkegxbmia5ui724fzkue7r2nkymkb"
        );
        assert_eq!(
            action_uuid(&key, 1, "create", 0),
            "ocjjok77o7cjjf6y2w4rmqg5bdvodgksyhbyxrcjim"
        );
    }

    #[test]
    fn every_part_of_the_name_counts_and_the_length_is_allowed() {
        let key = EventKey::new("cli_a1", "om_1");
        let uuids = [
            action_uuid(&key, 0, "reply", 0),
            action_uuid(&key, 1, "reply", 0),
            action_uuid(&key, 0, "create", 0),
            action_uuid(&key, 0, "reply", 1),
            action_uuid(&EventKey::new("cli_a2", "om_1"), 0, "reply", 0),
            action_uuid(&EventKey::new("cli_a1", "om_2"), 0, "reply", 0),
            renewed(&action_uuid(&key, 0, "reply", 0)),
            renewed(&action_uuid(&key, 0, "reply", 1)),
        ];
        let distinct: std::collections::HashSet<&String> = uuids.iter().collect();
        assert_eq!(distinct.len(), uuids.len());
        assert!(uuids.iter().all(|uuid| uuid.len() == 42));
    }
}
