//! The one SQLite file after its disk was full.

use openclaw_backends::sqlite::Sqlite;

#[tokio::test]
async fn what_is_committed_after_the_disk_was_full_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
    // What SQLite does by itself when a commit finds the disk full.
    let mut refused = database.writer.begin().await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut *refused).await.unwrap();
    drop(refused);
    // Another one that cannot be written.
    drop(database.writer.begin().await.unwrap());
    let mut written = database.writer.begin().await.unwrap();
    sqlx::query("INSERT INTO queue (bot, envelope) VALUES ('bot1', x'00')")
        .execute(&mut *written)
        .await
        .unwrap();
    written.commit().await.unwrap();
    let stored = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue");
    assert_eq!(stored.fetch_one(&database.reader).await.unwrap(), 1);
}
