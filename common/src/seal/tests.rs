#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::bot::BotId;
use crate::envelope::Origin;
use crate::secret::Secret;

fn ring(keys: &[(&str, u8)], active: &str) -> KeyRing {
    let keys = keys
        .iter()
        .map(|(id, byte)| ((*id).to_owned(), Secret::new(STANDARD.encode([*byte; 32]))))
        .collect();
    let active = active.to_owned();
    let accept_plain_until_ms = None;
    KeyRing::new(&Encryption {
        keys,
        active,
        accept_plain_until_ms,
    })
    .unwrap()
}

/// The ring while it is introduced, for so long from now.
fn changing_over(keys: &[(&str, u8)], active: &str, ms: i64) -> KeyRing {
    KeyRing {
        changing_over_until: time::now_ms() + ms,
        ..ring(keys, active)
    }
}

fn event() -> Envelope {
    Envelope {
        key: EventKey::new("cli_1", "om_1"),
        origin: Origin::Push,
        bot: BotId::new("bot1").unwrap(),
        event_type: "im.message.receive_v1".into(),
        chat: "oc_1".into(),
        tenant: "t_1".into(),
        created_ms: 1,
        received_ms: 2,
        traceparent: None,
        body: Bytes::new(),
    }
}

/// What version 1 made of a body.
fn sealed_before(id: &str, secret: u8, key: &EventKey, body: &[u8]) -> Bytes {
    let (salt, nonce) = ([3; SALT], [4; NONCE]);
    let mut sealed = vec![MAGIC, OLDER, u8::try_from(id.len()).unwrap()];
    for part in [id.as_bytes(), &salt, &nonce] {
        sealed.extend_from_slice(part);
    }
    let start = sealed.len();
    sealed.extend_from_slice(body);
    let tag = cipher(&[secret; 32], &salt)
        .encrypt_inout_detached(&nonce.into(), &associated_before(key), (&mut sealed[start..]).into())
        .unwrap();
    sealed.extend_from_slice(&tag);
    sealed.into()
}

const BODY: &[u8] = br#"{"schema":"2.0"}"#;

#[test]
fn a_sealed_body_hides_its_content_and_opens() {
    let ring = ring(&[("2026a", 1)], "2026a");
    let sealed = ring.seal(&event(), Part::Body, Bytes::from_static(BODY)).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"schema"));
    assert_eq!(manner(&sealed), Some(&b"\xf5\x02\x052026a"[..]));
    assert_eq!(ring.open(&event(), Part::Body, &sealed).unwrap(), BODY);
}

#[test]
fn the_same_body_is_never_sealed_the_same_way_twice() {
    let ring = ring(&[("a", 1)], "a");
    let seal = || ring.seal(&event(), Part::Body, Bytes::from_static(BODY)).unwrap();
    assert_ne!(seal(), seal());
}

#[test]
fn rotated_keys_open_what_they_sealed() {
    let old = ring(&[("a", 1)], "a")
        .seal(&event(), Part::Body, Bytes::from_static(BODY))
        .unwrap();
    let both = ring(&[("a", 1), ("b", 2)], "b");
    let new = both.seal(&event(), Part::Body, Bytes::from_static(BODY)).unwrap();
    assert_eq!(manner(&new), Some(&b"\xf5\x02\x01b"[..]));
    assert_eq!(both.open(&event(), Part::Body, &old).unwrap(), BODY);
    assert_eq!(both.open(&event(), Part::Body, &new).unwrap(), BODY);
    let only_new = ring(&[("b", 2)], "b");
    assert_eq!(
        only_new.open(&event(), Part::Body, &old),
        Err(OpenError::MissingKey("a".to_owned()))
    );
    assert_eq!(
        KeyRing::default().open(&event(), Part::Body, &old),
        Err(OpenError::MissingKey("a".to_owned()))
    );
}

#[test]
fn another_key_under_the_same_id_does_not_open() {
    let sealed = ring(&[("a", 1)], "a")
        .seal(&event(), Part::Body, Bytes::from_static(BODY))
        .unwrap();
    let result = ring(&[("a", 9)], "a").open(&event(), Part::Body, &sealed);
    assert_eq!(result, Err(OpenError::Damaged("a".to_owned())));
}

#[test]
fn a_body_moved_to_another_place_does_not_open() {
    let ring = ring(&[("a", 1)], "a");
    let sealed = ring.seal(&event(), Part::Body, Bytes::from_static(BODY)).unwrap();
    let moved = |change: &dyn Fn(&mut Envelope)| {
        let mut event = event();
        change(&mut event);
        event
    };
    let key = |app_id: &'static str, key: &'static str| moved(&|event| event.key = EventKey::new(app_id, key));
    for event in [
        key("cli_1", "om_2"),
        key("cli_2", "om_1"),
        key("cli_", "1om_1"),
        key("cli_1o", "m_1"),
        moved(&|event| event.bot = BotId::new("bot2").unwrap()),
        moved(&|event| event.origin = Origin::Send),
        moved(&|event| event.event_type = "card.action.trigger".into()),
        moved(&|event| event.chat = "oc_2".into()),
        moved(&|event| event.tenant = "t_2".into()),
    ] {
        let opened = ring.open(&event, Part::Body, &sealed);
        assert_eq!(opened, Err(OpenError::Damaged("a".to_owned())), "{event:?}");
    }
    let opened = ring.open(&event(), Part::Plan, &sealed);
    assert_eq!(opened, Err(OpenError::Damaged("a".to_owned())), "a body is no plan");
    // What only people look at, or what changes on the way, decides nothing.
    let later = moved(&|event| event.traceparent = Some("00-1-2-01".into()));
    assert_eq!(ring.open(&later, Part::Body, &sealed).unwrap(), BODY);
}

#[test]
fn a_plain_body_passes_without_a_ring_and_while_one_is_introduced() {
    let body = Bytes::from_static(BODY);
    let empty = KeyRing::default();
    assert_eq!(empty.seal(&event(), Part::Body, body.clone()).unwrap(), body);
    assert_eq!(empty.open(&event(), Part::Body, &body).unwrap(), body);
    let keys = [("a", 1)];
    assert_eq!(
        ring(&keys, "a").open(&event(), Part::Body, &body),
        Err(OpenError::Plain)
    );
    let introduced = changing_over(&keys, "a", 60_000);
    assert_eq!(introduced.open(&event(), Part::Body, &body).unwrap(), body);
    let over = changing_over(&keys, "a", -1).open(&event(), Part::Body, &body);
    assert!(
        over.unwrap_err()
            .to_string()
            .contains("`encryption.accept_plain_until`")
    );
    assert_eq!(manner(&body), None);
}

#[test]
fn what_an_older_version_sealed_opens_while_changing_over_and_only_then() {
    let sealed = sealed_before("a", 1, &event().key, BODY);
    let keys = [("a", 1)];
    assert_eq!(
        changing_over(&keys, "a", 60_000)
            .open(&event(), Part::Body, &sealed)
            .unwrap(),
        BODY
    );
    let refused = ring(&keys, "a").open(&event(), Part::Body, &sealed);
    assert_eq!(refused, Err(OpenError::Older("a".to_owned())));
    // Nor does what is sealed today open as if it were older.
    let mut today = ring(&keys, "a")
        .seal(&event(), Part::Body, Bytes::from_static(BODY))
        .unwrap()
        .to_vec();
    today[1] = OLDER;
    let opened = changing_over(&keys, "a", 60_000).open(&event(), Part::Body, &today.into());
    assert_eq!(opened, Err(OpenError::Damaged("a".to_owned())));
}

#[test]
fn what_only_looks_sealed_is_refused() {
    let ring = ring(&[("a", 1)], "a");
    for body in [
        &[MAGIC][..],
        &[MAGIC, 3, 1, b'a'],
        &[MAGIC, VERSION, 200, b'a'],
        &[MAGIC, VERSION, 1, b'a', 0],
    ] {
        let body = Bytes::copy_from_slice(body);
        assert_eq!(ring.open(&event(), Part::Body, &body), Err(OpenError::Unknown));
    }
}

#[test]
fn a_wrong_ring_is_named() {
    let ring = |id: &str, secret: &str, active: &str| {
        let keys = BTreeMap::from([(id.to_owned(), Secret::new(secret))]);
        let active = active.to_owned();
        KeyRing::new(&Encryption {
            keys,
            active,
            accept_plain_until_ms: None,
        })
        .unwrap_err()
        .to_string()
    };
    let good = STANDARD.encode([1; 32]);
    assert!(ring("a", "not base64", "a").contains("`encryption.keys.a`"));
    assert!(ring("a", &STANDARD.encode([1; 31]), "a").contains("32 bytes"));
    assert!(ring("a", &good, "b").contains("`b`"));
    assert!(ring("", &good, "").contains("1 to 255"));
}

#[test]
fn the_ring_prints_no_key() {
    let text = format!("{:?}", ring(&[("a", 65)], "a"));
    assert_eq!(text, r#"KeyRing(["a"], active Some("a"))"#);
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..100), index: prop::sample::Index, bit in 0..8_u32) {
        let ring = ring(&[("a", 1)], "a");
        let mut sealed = ring.seal(&event(), Part::Body, Bytes::from(body.clone())).unwrap().to_vec();
        prop_assert_eq!(&ring.open(&event(), Part::Body, &Bytes::from(sealed.clone())).unwrap(), &body);
        let at = index.index(sealed.len());
        sealed[at] ^= 1 << bit;
        prop_assert!(ring.open(&event(), Part::Body, &Bytes::from(sealed)).is_err());
    }
}
