//! Migrations.

use openclaw_common::store::StoreError;

use super::world::World;

pub(super) async fn four_processes_may_migrate_at_once(world: World) {
    // On PostgreSQL from nothing: a fresh database, nobody has migrated it yet.
    let world = if world.database().is_some() {
        World::empty_postgres().await
    } else {
        world
    };
    let stores: Vec<_> = (0..4).map(|_| world.other()).collect();
    let migrations: Vec<_> = stores
        .into_iter()
        .map(|store| tokio::spawn(async move { store.migrate().await }))
        .collect();
    for migration in migrations {
        migration.await.unwrap().unwrap();
    }
    world.store.ready().await.unwrap();
    world.start("om_1").await;
}

pub(super) async fn an_old_schema_says_what_to_run(world: World) {
    world.store.ready().await.unwrap();
    let needed = world.number("SELECT max(version) FROM _sqlx_migrations").await;
    world
        .execute(&format!("DELETE FROM _sqlx_migrations WHERE version = {needed}"))
        .await;
    let error = world.store.ready().await.unwrap_err();
    let StoreError::Schema { found, needed: wanted } = error else {
        panic!("{error:?}")
    };
    assert!(found < needed, "{found}");
    assert_eq!(wanted, needed);
    assert!(error.to_string().contains("run `openclaw migrate`"), "{error}");
}
