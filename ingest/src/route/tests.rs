#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use openclaw_common::bot::{BotId, Credentials};
use openclaw_common::config::{Feishu, Handler, Message, Quota};
use openclaw_common::secret::Secret;

use super::*;

fn bots(ids: &[&str], single: bool) -> BotSet {
    let bots = ids.iter().map(|id| {
        Arc::new(Bot {
            id: BotId::new(id).unwrap(),
            credentials: Credentials {
                app_id: format!("cli_{id}").into(),
                app_secret: Secret::new("s"),
                verification_token: Secret::new("t"),
                encrypt_key: None,
            },
            message: Message::default(),
            quota: Quota::default(),
            handler: Handler::default(),
            security: Security::default(),
            feishu: Feishu::default(),
        })
    });
    BotSet::new(bots, single)
}

/// `Ok(bot)`, or the code of the refusal.
fn route(bots: &BotSet, safe: &[&str], uri: &str) -> Result<String, &'static str> {
    let uri: Uri = uri.parse().unwrap();
    let security = Security {
        safe_paths: safe.iter().map(|path| (*path).to_owned()).collect(),
        ..Security::default()
    };
    check(bots, &security, &uri).map_err(|refusal| refusal.code.as_str())?;
    let bot = bot(bots, &uri).ok_or("no_such_bot")?;
    Ok(bot.id.to_string())
}

#[test]
fn a_bot_is_named_by_path_or_by_query() {
    let bots = bots(&["bot1", "bot2"], false);
    for (uri, expected) in [
        ("/webhook/bot1", Ok("bot1")),
        ("/webhook/bot2/", Ok("bot2")),
        ("/webhook?bot_id=bot2", Ok("bot2")),
        ("/webhook/?a=b&bot_id=bot1", Ok("bot1")),
        ("/webhook/cn/bot1", Ok("bot1")),
        ("/webhook", Err("no_such_bot")),
        ("/webhook?bot_id=bot3", Err("no_such_bot")),
        ("/webhook/bot3", Err("no_such_bot")),
        ("/webhook/bot3?bot_id=bot1", Err("no_such_bot")),
        ("/webhook/bot1?bot_id=bot1", Ok("bot1")),
        ("/webhook/bot1?bot_id=bot2", Err("forbidden_path")),
        ("/webhook/bot1?bot_id=other", Err("forbidden_path")),
        ("/webhook/bot1?bot_id=bot1&bot_id=bot2", Err("forbidden_path")),
        ("/webhook?bot_id=bot1&bot_id=bot2", Err("forbidden_path")),
        ("/webhook?bot_id=bot1&bot_id=bot1", Ok("bot1")),
        ("/webhook//bot1", Err("forbidden_path")),
        ("/webhook/bot1//", Err("forbidden_path")),
        ("/webhook/./bot1", Err("forbidden_path")),
        ("/webhook/a/../b/bot1", Err("forbidden_path")),
        ("/webhook/../webhook/bot1", Err("forbidden_path")),
        ("/webhook/%2e%2E/bot1", Err("forbidden_path")),
        ("/webhook/.%2e/bot1", Err("forbidden_path")),
        ("/webhook/..;a=b/bot1", Err("forbidden_path")),
        ("/webhook/a%2f..%2Fb/bot1", Err("forbidden_path")),
        ("/webhook/a%5cb/bot1", Err("forbidden_path")),
        ("/webhook/..a/bot1", Ok("bot1")),
        ("/webhookx/bot1", Err("forbidden_path")),
        ("/webhookx?bot_id=bot1", Err("forbidden_path")),
        ("/bot1", Err("forbidden_path")),
        ("/", Err("forbidden_path")),
        ("//webhook/bot1", Err("forbidden_path")),
        ("/Webhook/bot1", Err("forbidden_path")),
    ] {
        assert_eq!(route(&bots, &["/webhook"], uri), expected.map(str::to_owned), "{uri}");
    }
}

#[test]
fn a_bot_s_own_folder_takes_any_or_no_bot_id() {
    let bots = bots(&["bot1"], true);
    for uri in [
        "/webhook",
        "/webhook?bot_id=whatever",
        "/webhook?bot_id=bot1",
        "/webhook/bot1",
    ] {
        assert_eq!(route(&bots, &["/webhook"], uri).unwrap(), "bot1", "{uri}");
    }
    assert_eq!(route(&bots, &["/webhook"], "/webhook/other"), Err("no_such_bot"));
}

#[test]
fn every_safe_path_is_a_place_for_bots() {
    let bots = bots(&["bot1", "bot2"], false);
    let safe = &["/hooks/feishu", "/hooks/only/bot2", "/webhook/"];
    for (uri, expected) in [
        ("/hooks/feishu/bot1", Ok("bot1")),
        ("/hooks/feishu?bot_id=bot1", Ok("bot1")),
        ("/hooks/only/bot2", Ok("bot2")),
        ("/webhook/bot2", Ok("bot2")),
        ("/hooks/only/bot1", Err("forbidden_path")),
        ("/hooks/feishux/bot1", Err("forbidden_path")),
        ("/hooks", Err("forbidden_path")),
    ] {
        assert_eq!(route(&bots, safe, uri), expected.map(str::to_owned), "{uri}");
    }
    assert_eq!(route(&bots, &["/"], "/any/where/bot1").unwrap(), "bot1");
    assert_eq!(route(&bots, &[], "/webhook/bot1"), Err("forbidden_path"));
}
