//! Stopped tenants and counted calls.

use openclaw_common::store::{Calls, Stop, Tally};

use super::world::World;

fn stop(tenant: &str, error: &str) -> Stop {
    Stop {
        tenant: tenant.to_owned(),
        bot: "bot1".to_owned(),
        code: 99_991_403,
        error: error.to_owned(),
    }
}

fn calls(tenant: &str, kind: &str, count: u64) -> Calls {
    Calls {
        tenant: tenant.to_owned(),
        kind: kind.to_owned(),
        count,
    }
}

fn tally(writer: &str, number: i64, calls: Vec<Calls>) -> Tally {
    Tally {
        writer: writer.to_owned(),
        number,
        calls,
    }
}

pub(super) async fn a_stopped_tenant_stays_stopped_until_it_is_resumed(world: World) {
    assert_eq!(world.store.stopped_tenants().await.unwrap(), []);
    let (first, other) = (stop("team-a", "used up\0"), stop("cli_1", "used up"));
    assert!(world.store.stop_tenant(&first).await.unwrap());
    assert!(world.store.stop_tenant(&other).await.unwrap());
    // Every bot of the tenant may be told; the first word stays.
    assert!(!world.other().stop_tenant(&stop("team-a", "again")).await.unwrap());
    let stopped = world.other().stopped_tenants().await.unwrap();
    let whose: Vec<&str> = stopped.iter().map(|stopped| stopped.stop.tenant.as_str()).collect();
    assert_eq!(whose, ["cli_1", "team-a"]);
    assert_eq!(stopped[0].stop, other);
    assert!(stopped[1].stop.error.starts_with("used up"), "{stopped:?}");
    assert!(stopped[0].since_ms > 1_700_000_000_000);
    let resumed = ["team-a".to_owned(), "team-b".to_owned()];
    assert_eq!(world.store.resume_tenants(&resumed, "ann@host").await.unwrap(), 1);
    assert_eq!(world.store.resume_tenants(&resumed, "ann@host").await.unwrap(), 0);
    assert_eq!(world.store.stopped_tenants().await.unwrap().len(), 1);
    let audited = "SELECT count(*) FROM audit WHERE who = 'ann@host' AND what = 'resume' AND count = 1
                   AND filter = 'tenants team-a'";
    assert_eq!(world.number(audited).await, 1);
}

pub(super) async fn calls_add_up_and_a_repeated_tally_counts_once(world: World) {
    let empty = world.store.spent().await.unwrap();
    assert!(empty.calls.is_empty() && empty.now_ms > 1_700_000_000_000, "{empty:?}");
    let first = tally("a", 1, vec![calls("team-a", "reply", 3), calls("cli_2", "create", 1)]);
    world.store.add_calls(&first).await.unwrap();
    // Its answer was lost.
    world.other().add_calls(&first).await.unwrap();
    let others = tally("b", 1, vec![calls("team-a", "reply", 10)]);
    world.store.add_calls(&others).await.unwrap();
    let second = tally("a", 2, vec![calls("team-a", "reply", 4), calls("team-a", "create", 2)]);
    world.store.add_calls(&second).await.unwrap();
    world.store.add_calls(&first).await.unwrap();
    let spent = world.other().spent().await.unwrap();
    let expected = [
        calls("cli_2", "create", 1),
        calls("team-a", "create", 2),
        calls("team-a", "reply", 17),
    ];
    assert_eq!(spent.calls, expected);
    assert_eq!((spent.by("team-a"), spent.by("nobody")), (19, 0));
    // Last month's are no longer this month's.
    world.execute("UPDATE calls SET month = month - 1").await;
    assert_eq!(world.store.spent().await.unwrap().calls, []);
}

pub(super) async fn of_many_processes_one_is_the_first_to_warn(world: World) {
    let stores: Vec<_> = (0..8).map(|_| world.other()).collect();
    let notes: Vec<_> = stores
        .into_iter()
        .map(|store| tokio::spawn(async move { store.note_warning("team-a", 80).await.unwrap() }))
        .collect();
    let mut first = 0;
    for note in notes {
        first += usize::from(note.await.unwrap());
    }
    assert_eq!(first, 1);
    assert!(world.store.note_warning("team-a", 95).await.unwrap());
    assert!(world.store.note_warning("team-b", 80).await.unwrap());
}
