//! What comes first in the waiting room.

use std::time::Duration;

use openclaw_common::priority::Priority;
use openclaw_common::store::{ActionState, Intent, Replay, Room, Step};

use super::world::{HOUR, World, arrival, bot, change, keys, notification, room, taken, wait};

/// Replays everything that is dead, due now.
async fn replay(world: &World) {
    let letters = world.store.dead_letters(&Default::default(), 100).await.unwrap();
    let order = Replay {
        ids: letters.iter().map(|letter| letter.id).collect(),
        first_in: Duration::ZERO,
        spacing: Duration::ZERO,
        unknown: None,
        force: false,
        who: "test".to_owned(),
    };
    world.store.replay(&order).await.unwrap();
}

pub(super) async fn answers_come_before_notifications_before_replays(world: World) {
    world.dead("om_replay", ActionState::Refused).await;
    replay(&world).await;
    world
        .begin(vec![
            notification("om_notification", "oc_2", Intent::Park),
            arrival("om_answer", "oc_3", Intent::Park),
        ])
        .await;
    let one = Room {
        full: &[],
        per_chat: 4,
        answers: 1,
        others: 0,
    };
    assert_eq!(keys(&world.store.take_due(&bot(), one).await.unwrap()), ["om_answer"]);
    let mut priorities = Vec::new();
    for key in ["om_notification", "om_replay"] {
        let rows = world.store.take_due(&bot(), room(&[], 4, 1)).await.unwrap();
        assert_eq!(keys(&rows), [key]);
        priorities.push(rows[0].priority());
    }
    assert_eq!(priorities, [Priority::Notification, Priority::Replay]);
}

pub(super) async fn an_answer_pulls_along_what_stands_before_it_in_its_chat(world: World) {
    world.dead("om_replay", ActionState::Refused).await;
    replay(&world).await;
    world
        .begin(vec![
            notification("om_elsewhere", "oc_2", Intent::Park),
            notification("om_before", "oc_1", Intent::Park),
        ])
        .await;
    // In a batch of its own: what waits already is known then.
    world.begin(vec![arrival("om_answer", "oc_1", Intent::Park)]).await;
    let take = async |per_chat, answers| {
        let room = Room {
            full: &[],
            per_chat,
            answers,
            others: 0,
        };
        keys(&world.store.take_due(&bot(), room).await.unwrap())
    };
    assert_eq!(take(1, 4).await, ["om_before"], "in the chat's order");
    assert_eq!(
        take(1, 4).await,
        ["om_answer"],
        "before the replay, whose place is long gone"
    );
    assert!(take(4, 4).await.is_empty(), "nothing left that a person waits for");
    assert_eq!(keys(&world.take_due(10).await), ["om_replay", "om_elsewhere"]);
}

pub(super) async fn answers_and_all_else_have_room_of_their_own(world: World) {
    let notifications =
        (0..6).map(|number| notification(&format!("om_n{number}"), &format!("oc_n{number}"), Intent::Park));
    world.begin(notifications.collect()).await;
    let answers = (0..6).map(|number| arrival(&format!("om_a{number}"), &format!("oc_a{number}"), Intent::Park));
    world.begin(answers.collect()).await;
    let room = Room {
        full: &[],
        per_chat: 4,
        answers: 3,
        others: 2,
    };
    let rows = keys(&world.store.take_due(&bot(), room).await.unwrap());
    assert_eq!(rows, ["om_n0", "om_n1", "om_a0", "om_a1", "om_a2"]);
}

pub(super) async fn every_row_of_a_long_chat_comes_in_its_turn(world: World) {
    let mut expected = Vec::new();
    for number in 0..60 {
        let key = format!("om_{number}");
        let parked = match number % 7 {
            0 => arrival(&key, "oc_1", Intent::Park),
            _ => notification(&key, "oc_1", Intent::Park),
        };
        world.begin(vec![parked]).await;
        expected.push(key);
    }
    let covered = world.number("SELECT count(*) FROM events WHERE covered").await;
    assert!(covered > 40, "one row stands for the others: {covered}");
    let mut taken = Vec::new();
    while taken.len() < 60 {
        let rows = keys(&world.store.take_due(&bot(), room(&[], 4, 64)).await.unwrap());
        assert!(!rows.is_empty(), "stuck after {taken:?}");
        taken.extend(rows);
    }
    assert_eq!(taken, expected);
}

/// However the rows of a chat get there, the search for what is next meets one of them.
pub(super) async fn of_what_goes_behind_a_lane_one_row_speaks_for_the_others(world: World) {
    let speakers = "SELECT count(*) FROM events WHERE state = 'waiting' AND NOT covered";
    // All at once, before anything waits there.
    let parked = (0..20).map(|number| arrival(&format!("om_{number}"), "oc_1", Intent::Park));
    world.begin(parked.collect()).await;
    assert_eq!(world.number(speakers).await, 1);
    // From memory, behind one that failed and one that was parked.
    for (chat, first) in [("oc_2", HOUR), ("oc_3", Duration::ZERO)] {
        let key = |number: usize| format!("{chat}_{number}");
        let held = (0..20).map(|number| arrival(&key(number), chat, Intent::Hold));
        let mut rows: Vec<_> = world.begin(held.collect()).await.into_iter().map(taken).collect();
        assert!(world.step(&rows.remove(0), wait(first, true)).await);
        let changes: Vec<_> = rows.iter().map(|row| change(row, wait(Duration::ZERO, true))).collect();
        assert!(
            world
                .store
                .apply(&changes)
                .await
                .unwrap()
                .iter()
                .all(|applied| *applied)
        );
    }
    assert_eq!(world.number(speakers).await, 3);
    world.pass("events", "due_at", "oc_2_0", HOUR).await;
    let mut found = Vec::new();
    while found.len() < 60 {
        let rows = keys(&world.store.take_due(&bot(), room(&[], 4, 64)).await.unwrap());
        assert!(!rows.is_empty(), "stuck after {found:?}");
        found.extend(rows);
    }
    for chat in ["om", "oc_2", "oc_3"] {
        let of_chat = found.iter().filter_map(|key| key.strip_prefix(chat)?.strip_prefix('_'));
        let numbers: Vec<usize> = of_chat.map(|number| number.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{chat}: {numbers:?}");
    }
}

/// The first of a batch would speak for the others, but it is a copy of an event that is done and never gets there.
pub(super) async fn a_copy_speaks_for_nobody(world: World) {
    let done = world.start("om_1").await;
    assert!(world.step(&done, Step::Finish(Vec::new())).await);
    let parked = ["om_1", "om_2", "om_3"].map(|key| arrival(key, "oc_1", Intent::Park));
    world.begin(parked.to_vec()).await;
    assert_eq!(keys(&world.take_due(10).await), ["om_2", "om_3"]);
}

pub(super) async fn a_chat_whose_rows_all_rely_on_one_that_is_gone_is_found_again(world: World) {
    for key in ["om_1", "om_2", "om_3"] {
        world.begin(vec![arrival(key, "oc_1", Intent::Park)]).await;
    }
    // As a predecessor leaves it that takes the first one while the others are being written.
    world
        .execute("UPDATE events SET state = 'done', due_at = NULL WHERE key = 'om_1'")
        .await;
    world.store.unfinished(&bot(), &[]).await.unwrap();
    assert_eq!(keys(&world.take_due(10).await), ["om_2", "om_3"]);
}
