//! What `openclaw check` asks Redis, and what a role says of it when it connects.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use tokio::time::timeout;

use super::{asking, probe};
use openclaw_common::checkup::{Asked, Finding};
use openclaw_common::secret::Secret;

const REDIS: &str = "redis";
/// For the connection, and for each answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first version whose `SET` takes `NX` and `GET` together.
const LEAST: u32 = 7;

/// Looks at the server behind a URL.
pub(crate) async fn checkup(url: &Secret) -> Vec<Finding> {
    match timeout(2 * PATIENCE, look(url)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![refusal(&error)],
        Err(_) => vec![Finding::unreachable(
            REDIS,
            format!("no answer within {} s", 2 * PATIENCE.as_secs()),
            "look whether `backend.distributed.redis_url` names a Redis, and a firewall lets it through",
        )],
    }
}

async fn look(url: &Secret) -> Result<Vec<Finding>, RedisError> {
    let mut connection = enter(url).await?;
    let mut findings = Vec::new();
    let asked = Asked::now();
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
    findings.extend(asked.answered(REDIS, seconds * 1000 + micros / 1000, Duration::from_millis(1)));
    let about = about(&mut connection).await?;
    let version = field(&about, "redis_version").unwrap_or("unknown").to_owned();
    findings.extend(judge(&about));
    match asking(&probe()).invoke_async::<()>(&mut connection).await {
        Ok(()) => findings.insert(0, Finding::ok(REDIS, format!("Redis {version}; it takes what is written"))),
        Err(error) => findings.insert(
            0,
            Finding::wrong(
                REDIS,
                format!("Redis {version} takes nothing: {error}"),
                "name the primary in `backend.distributed.redis_url`, give it memory, and let its user write `openclaw:*`",
            ),
        ),
    }
    Ok(findings)
}

/// Connects and gives the password by hand: the library keeps the server's words about it to itself.
async fn enter(url: &Secret) -> Result<MultiplexedConnection, RedisError> {
    let info = url.expose().into_connection_info()?;
    let login = info.redis_settings().clone();
    let anonymous = RedisConnectionInfo::default().set_protocol(login.protocol());
    let client = Client::open(info.set_redis_settings(anonymous))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    if let Some(password) = login.password() {
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = login.username() {
            auth.arg(user);
        }
        auth.arg(password).exec_async(&mut connection).await?;
    }
    if login.db() != 0 {
        redis::cmd("SELECT").arg(login.db()).exec_async(&mut connection).await?;
    }
    Ok(connection)
}

/// What the server says of itself. Two calls, because older servers take one section at a time.
pub(super) async fn about(connection: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let mut about: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
    let memory: String = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    about.push('\n');
    about.push_str(&memory);
    Ok(about)
}

/// One line of `INFO`.
pub(super) fn field<'a>(about: &'a str, name: &str) -> Option<&'a str> {
    about
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// What is wrong or unwise in it.
pub(super) fn judge(about: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = field(about, "redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < LEAST) {
        findings.push(Finding::wrong(
            REDIS,
            format!("Redis {version} is too old"),
            format!("run Redis {LEAST} or later"),
        ));
    }
    if let Some(policy) = field(about, "maxmemory_policy").filter(|policy| *policy != "noeviction") {
        findings.push(Finding::warning(
            REDIS,
            format!("maxmemory-policy is {policy}: under memory pressure Redis forgets send slots, and bots exceed their quota"),
            "set `maxmemory-policy noeviction` in redis.conf, or `CONFIG SET maxmemory-policy noeviction`",
        ));
    }
    findings
}

fn refusal(error: &RedisError) -> Finding {
    let code = error.code().unwrap_or_default();
    let detail = match code {
        "" => error.to_string(),
        // The library takes the code off the server's words.
        code => format!("{code} {}", error.detail().unwrap_or_default()),
    };
    let to_do = match code {
        "WRONGPASS" | "NOAUTH" | "NOPERM" => {
            "put a user and password that Redis knows into `backend.distributed.redis_url` (`ACL LIST` on the server shows \
             its users; special characters are written as %XX)"
        }
        _ if error.kind() == ErrorKind::InvalidClientConfig => "correct `backend.distributed.redis_url`",
        _ => "look whether Redis runs where `backend.distributed.redis_url` points, and a firewall lets it through",
    };
    match code {
        // It is in, and may not do what it must.
        "NOPERM" => Finding::wrong(REDIS, detail, to_do),
        _ => Finding::unreachable(REDIS, detail, to_do),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openclaw_common::checkup::Verdict;

    #[test]
    fn an_eviction_policy_is_unwise_and_an_old_server_wrong() {
        let results = |about: &str| judge(about).iter().map(|it| it.result).collect::<Vec<_>>();
        assert_eq!(results("redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n"), []);
        assert_eq!(
            results("redis_version:7.0.15\r\nmaxmemory_policy:allkeys-lru\r\n"),
            [Verdict::Warning]
        );
        assert_eq!(
            results("redis_version:6.2.1\r\nmaxmemory_policy:volatile-ttl\r\n"),
            [Verdict::Wrong, Verdict::Warning]
        );
        assert_eq!(results(""), []);
    }
}
