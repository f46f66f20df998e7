#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::secret::Secret;

fn ring(keys: &[(&str, u8)], active: &str) -> KeyRing {
    let keys = keys
        .iter()
        .map(|(id, byte)| ((*id).to_owned(), Secret::new(STANDARD.encode([*byte; 32]))))
        .collect();
    let active = active.to_owned();
    KeyRing::new(&Encryption { keys, active }).unwrap()
}

fn event() -> EventKey {
    EventKey::new("cli_1", "om_1")
}

const BODY: &[u8] = br#"{"schema":"2.0"}"#;

#[test]
fn a_sealed_body_hides_its_content_and_opens() {
    let ring = ring(&[("2026a", 1)], "2026a");
    let sealed = ring.seal(&event(), Bytes::from_static(BODY)).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"schema"));
    assert_eq!(key_id(&sealed), Some("2026a"));
    assert_eq!(ring.open(&event(), &sealed).unwrap(), BODY);
}

#[test]
fn the_same_body_is_never_sealed_the_same_way_twice() {
    let ring = ring(&[("a", 1)], "a");
    let seal = || ring.seal(&event(), Bytes::from_static(BODY)).unwrap();
    assert_ne!(seal(), seal());
}

#[test]
fn rotated_keys_open_what_they_sealed() {
    let old = ring(&[("a", 1)], "a").seal(&event(), Bytes::from_static(BODY)).unwrap();
    let both = ring(&[("a", 1), ("b", 2)], "b");
    let new = both.seal(&event(), Bytes::from_static(BODY)).unwrap();
    assert_eq!(key_id(&new), Some("b"));
    assert_eq!(both.open(&event(), &old).unwrap(), BODY);
    assert_eq!(both.open(&event(), &new).unwrap(), BODY);
    let only_new = ring(&[("b", 2)], "b");
    assert_eq!(
        only_new.open(&event(), &old),
        Err(OpenError::MissingKey("a".to_owned()))
    );
    assert_eq!(
        KeyRing::default().open(&event(), &old),
        Err(OpenError::MissingKey("a".to_owned()))
    );
}

#[test]
fn another_key_under_the_same_id_does_not_open() {
    let sealed = ring(&[("a", 1)], "a").seal(&event(), Bytes::from_static(BODY)).unwrap();
    let result = ring(&[("a", 9)], "a").open(&event(), &sealed);
    assert_eq!(result, Err(OpenError::Damaged("a".to_owned())));
}

#[test]
fn a_body_moved_to_another_event_does_not_open() {
    let ring = ring(&[("a", 1)], "a");
    let sealed = ring
        .seal(&EventKey::new("cli_1", "om_1"), Bytes::from_static(BODY))
        .unwrap();
    for (app_id, key) in [
        ("cli_1", "om_2"),
        ("cli_2", "om_1"),
        ("cli_", "1om_1"),
        ("cli_1o", "m_1"),
    ] {
        assert!(
            ring.open(&EventKey::new(app_id, key), &sealed).is_err(),
            "{app_id} {key}"
        );
    }
}

#[test]
fn plain_bodies_pass_with_and_without_a_ring() {
    let body = Bytes::from_static(BODY);
    assert_eq!(KeyRing::default().seal(&event(), body.clone()).unwrap(), body);
    assert_eq!(KeyRing::default().open(&event(), &body).unwrap(), body);
    assert_eq!(ring(&[("a", 1)], "a").open(&event(), &body).unwrap(), body);
    assert_eq!(key_id(&body), None);
}

#[test]
fn what_only_looks_sealed_is_refused() {
    let ring = ring(&[("a", 1)], "a");
    for body in [
        &[MAGIC][..],
        &[MAGIC, 2, 1, b'a'],
        &[MAGIC, VERSION, 200, b'a'],
        &[MAGIC, VERSION, 1, b'a', 0],
    ] {
        let body = Bytes::copy_from_slice(body);
        assert_eq!(ring.open(&event(), &body), Err(OpenError::Unknown));
    }
}

#[test]
fn a_wrong_ring_is_named() {
    let ring = |id: &str, secret: &str, active: &str| {
        let keys = BTreeMap::from([(id.to_owned(), Secret::new(secret))]);
        let active = active.to_owned();
        KeyRing::new(&Encryption { keys, active }).unwrap_err().to_string()
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
        let mut sealed = ring.seal(&event(), Bytes::from(body.clone())).unwrap().to_vec();
        prop_assert_eq!(&ring.open(&event(), &Bytes::from(sealed.clone())).unwrap(), &body);
        let at = index.index(sealed.len());
        sealed[at] ^= 1 << bit;
        // Without its magic it is an unreadable plain body; it can never pass for the one that was sealed.
        if let Ok(opened) = ring.open(&event(), &Bytes::from(sealed)) {
            prop_assert!(at == 0 && opened != body);
        }
    }
}
