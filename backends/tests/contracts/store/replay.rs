//! A campaign of replays, against a worker that this test plays.

use std::time::Duration;

use openclaw_common::replay::{CHUNK, Campaign, Ending};
use openclaw_common::store::{ActionState, DeadFilter, Row, State, Step};
use tokio_util::sync::CancellationToken;

use super::world::{HOUR, World, bot, die, outcome, wait};

const LETTERS: usize = 2 * CHUNK as usize + 3;

fn campaign(patience: Option<Duration>) -> Campaign {
    Campaign {
        filter: DeadFilter {
            bot: Some(bot()),
            before: Some(i64::MAX),
            ..DeadFilter::default()
        },
        spacing: Duration::from_millis(1),
        unknown: None,
        force: false,
        who: "anna".to_owned(),
        patience,
    }
}

async fn dead(world: &World) {
    for number in 0..LETTERS {
        world.dead(&format!("om_{number:02}"), ActionState::Refused).await;
    }
}

/// Runs the campaign beside a worker that ends every event it takes up as `fate` says; how it ended, and how many were
/// replayed.
async fn run(world: &World, campaign: &Campaign, fate: impl Fn(&Row) -> Step) -> (Ending, u64) {
    let mut replayed = 0;
    let stop = CancellationToken::new();
    let work = async {
        loop {
            for row in world.take_due(100).await {
                assert!(world.step(&row, fate(&row)).await);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ending = tokio::select! {
        ending = campaign.run(&*world.store, &stop, |answer| replayed += answer.done.values().sum::<u64>()) => ending,
        () = work => panic!("the worker never ends"),
    };
    (ending.unwrap(), replayed)
}

fn finish() -> Step {
    Step::Finish(vec![outcome(0, ActionState::Sent)])
}

pub(super) async fn a_campaign_replays_oldest_first_to_the_end(world: World) {
    dead(&world).await;
    let positions = std::sync::Mutex::new(Vec::new());
    let fate = |row: &Row| {
        positions.lock().unwrap().push(row.position);
        // A failure that may pass is no verdict: the campaign goes on.
        if row.position % 2 == 0 {
            finish()
        } else {
            wait(HOUR, false)
        }
    };
    let ended = run(&world, &campaign(Some(HOUR)), fate).await;
    assert_eq!(ended, (Ending::Finished, LETTERS as u64));
    let positions = positions.into_inner().unwrap();
    assert!(positions.len() == LETTERS && positions.is_sorted(), "{positions:?}");
    assert_eq!(world.count(State::Dead).await, 0);
}

pub(super) async fn a_campaign_stops_when_most_of_a_chunk_dies_again(world: World) {
    dead(&world).await;
    let (ending, replayed) = run(&world, &campaign(Some(HOUR)), |_| die(Vec::new())).await;
    let Ending::DiedAgain { died, of, example } = ending else {
        panic!("{ending:?}")
    };
    assert!(of == CHUNK as usize && died * 2 > of && replayed == u64::from(CHUNK));
    assert_eq!(example.unwrap().replay_generation, 1);
    assert_eq!(
        world.number("SELECT count(*) FROM events WHERE replay_gen > 0").await,
        i64::from(CHUNK)
    );
}

pub(super) async fn a_campaign_goes_on_when_only_some_die_again(world: World) {
    dead(&world).await;
    let fate = |row: &Row| {
        if row.position % 3 == 0 {
            die(Vec::new())
        } else {
            finish()
        }
    };
    let mut bounded = campaign(Some(HOUR));
    let newest = world.store.dead_letters(&DeadFilter::default(), 1).await.unwrap()[0].id;
    bounded.filter.before = Some(newest + 1);
    let (ending, replayed) = run(&world, &bounded, fate).await;
    assert_eq!(
        (ending, replayed),
        (Ending::Finished, LETTERS as u64),
        "what died meanwhile is left out"
    );
}

pub(super) async fn a_campaign_without_a_worker_says_so(world: World) {
    dead(&world).await;
    let stop = CancellationToken::new();
    let hurried = campaign(Some(Duration::from_millis(300)));
    let ending = hurried.run(&*world.store, &stop, |_| {}).await.unwrap();
    assert_eq!(
        ending,
        Ending::NobodyThere {
            waiting: CHUNK as usize
        }
    );
    // Where nobody can be there, nobody is waited for.
    let ending = campaign(None).run(&*world.store, &stop, |_| {}).await.unwrap();
    assert_eq!(ending, Ending::Finished);
    assert_eq!(world.count(State::Waiting).await, LETTERS as u64);
    stop.cancel();
    let ending = campaign(None).run(&*world.store, &stop, |_| {}).await.unwrap();
    assert_eq!(ending, Ending::Stopped);
}
