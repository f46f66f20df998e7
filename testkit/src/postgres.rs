//! A database of its own for each test.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{addresses, cleanup, unique_name};

/// An empty PostgreSQL database, dropped with this value even while connections to it are open.
#[derive(Debug)]
pub struct Database {
    /// The maintenance database of its server.
    server: String,
    name: String,
    url: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        Self::create_on(&addresses::database()).await
    }

    /// On the server with this maintenance database.
    pub(crate) async fn create_on(server: &str) -> Self {
        let name = unique_name();
        statement(server, &format!("CREATE DATABASE {name}"))
            .await
            .unwrap_or_else(|error| {
                panic!("PostgreSQL at {server} gives no database ({error}): run `./dev services up`")
            });
        let (address, _maintenance) = server.rsplit_once('/').expect("the database URL ends with /name");
        Self {
            server: server.to_owned(),
            url: format!("{address}/{name}"),
            name,
        }
    }

    /// `postgres://…`, for a pool of the test's own.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its server listens.
    ///
    /// # Panics
    /// Never: the address was made here.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        let authority = self.url.split('/').nth(2).expect("a URL with a host");
        let address = authority.rsplit('@').next().expect("a host");
        address.parse().expect("a host and a port")
    }

    /// Cuts every connection to this database, as a restarting server does. New ones are accepted at once.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn cut_connections(&self) {
        let cut = format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        );
        statement(&self.server, &cut)
            .await
            .expect("PostgreSQL cuts connections");
    }

    /// Makes every commit wait for its disk that long (`commit_delay`), on connections that are opened from now on; zero:
    /// as the server has it. Other databases of the server are not concerned, and the setting goes with this one.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn delay_commits(&self, delay: Duration) {
        let name = &self.name;
        let settings = if delay.is_zero() {
            vec![
                format!("ALTER DATABASE {name} RESET commit_delay"),
                format!("ALTER DATABASE {name} RESET commit_siblings"),
            ]
        } else {
            vec![
                format!("ALTER DATABASE {name} SET commit_delay = {}", delay.as_micros()),
                format!("ALTER DATABASE {name} SET commit_siblings = 0"),
            ]
        };
        for setting in settings {
            statement(&self.server, &setting)
                .await
                .expect("PostgreSQL takes the setting");
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        cleanup::finish(format!("database {}", self.name), async move {
            statement(&server, &drop).await.map_err(|error| error.to_string())
        });
    }
}

/// Runs one statement on the maintenance database. Its text holds no name but those made by [`unique_name`].
async fn statement(server: &str, text: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(server).await?;
    sqlx::query(AssertSqlSafe(text.to_owned()))
        .execute(&mut connection)
        .await?;
    connection.close().await
}
