//! Every vector of `docs/design/feishu-protocol.md` §2.5 and §3, and the property that nothing else passes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use proptest::prelude::*;

use super::*;

const E1: &str = "AAECAwQFBgcICQoLDA0ODw9mLTIAZS9jAmGTQ1wAhHpnBHVL2wRjH9rPunQdQC1vE6jfvtdYbhQMfwUfQ7wuqy4X3Mr7UJw2y9wdt/Vt34D1dAmNrNclsr8yv60J92fZ";
const E1_PLAIN: &str = r#"{"challenge":"ajls384kdjx98XX","token":"vtoken","type":"url_verification"}"#;
const E2: &str = "q6urq6urq6urq6urq6urqw8CDxZGSjNvXtjzFPmHABUidyUibteGS9UkyYgkVCT81MOjN5du4Sc108SqeOHR1RtyZflfIm6Vrn63QNgkDlUSKmE3C3d/cqXaP9793BzE/WHTzkY4V+RYQZmL6wZzjQqBUcnnWc/gAUECe5NsrjVWud1osXgcoTQQdXXmNBUmGUp20iUA3AYW0BYYNsspFecOkbovFVtWRhe3CA/ARiZtkiMmpqXSirRRQNongJQ1bG81rI+gdPTWutsdI3klkhHRUdg0YKnxWN93jiTOaPw=";
const E2_PLAIN: &str = r#"{"schema":"2.0","header":{"event_id":"ev_0001","event_type":"im.message.receive_v1","create_time":"1700000000123","token":"vtoken","app_id":"cli_test","tenant_key":"tk"},"event":{"note":"你好"}}"#;
const V1: &str = "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=";
const V2: &str = "bZ3L7yh6m3Fkuffl4g+3uGjIHnhOm5fVZbKVuyT8t7tcd5ABMYm8l28/X900ZL3knZ7n+sCREu/H2WnIzft0amC7+xWqNH8o25IU63N4BnZWfHh+4hyG76QPd19vkw2bPJCx9aqxK8Nz+xqFNbk0RdgyWhmgd30jSxHtcQXAllkI7FMpGpOCteJad3bLXPDBQIV/xkCtKICCS7Z63gakpxZCLaRZ3qCXP1fapHh+LBIupxenrU6ysc7I3nHmjmKie41IiWwS5puG4zQHhVbq6KWLcgWm/3NBZOPQy53ucMu75SXA55I7jarVLZXWUcqBGrcgE3vouWbtwgZuzmoTQl0GSh5VYSVvpW992BuGxUWj0XjPYdICJm6Cr7xouNXwMcdb7N8caVdkdSZeEnswG19qSyDoQhklwzNGW0yiaayulBqJNjfge/G5V3401c2XaIuAeEIo+QQ4RSNpRGfnHkbu/j55FGQAGWjpuBNaIwZbaUoVP3NkGP+vM5rpEDe3sL2GN+Xsd+g9yBs7FqdMV8mXTGgLjCqjrPrke5/km76Q3Pe6KPs2YexMRG4MkSx3xUTzZnNn7zIzShPcjeSwBd2pxk6ht5N+fzueZdxl6Oo=";
const V2_PLAIN: &str = r#"{"schema":"2.0","header":{"event_id":"f7984f25108f8137722bb63cee927e66","event_type":"contact.user.created_v3","app_id":"cli_xxxxxxxx","tenant_key":"xxxxxxx","create_time":"1603977298000000","token":"v"},"event":{"object":{"open_id":"ou_7dab8a3d3cdcc9da365777c7ad535d62","union_id":"on_576833b917gda3d939b9a3c2d53e72c8","user_id":"e33ggbyz","name":"张三","employee_no":"employee_no"}},"challenge":"1212","type":"url_verification"}"#;
const V3: &str = "FIAfJPGRmFZWkaxPQ1XrJZVbv2JwdjfLk4jx0k/U1deAqYK3AXOZ5zcHt/cC4ZNTqYwWUW/EoL+b2hW/C4zoAQQ5CeMtbxX2zHjm+E4nX/Aww+FHUL6iuIMaeL2KLxqdtbHRC50vgC2YI7xohnb3KuCNBMUzLiPeNIpVdnYaeteCmSaESb+AZpJB9PExzTpRDzCRv+T6o5vlzaE8UgIneC1sYu85BnPBEMTSuj1ZZzfdQi7ZW992Z4dmJxn9e8FL2VArNm99f5Io3c2O4AcNsQENNKtfAAxVjCqc3mg5jF0nKabA+u/5vrUD76flX1UOF5fzJ0sApG2OEn9wfyPDRBsApn9o+fceF9hNrYBGsdtZrZYyGG387CGOtKsuj8e2E8SNp+Pn4E9oYejOTR+ZNLNi+twxaXVlJhr6l+RXYwEiMGQE9zGFBD6h2dOhKh3W84p1GEYnSRIz1+9/Hp66arjC7RCrhuW5OjCj4QFEQJiwgL45XryxHtiZ7JdAlPmjVsL03CxxFZarzxzffryrWUG3VkRdHRHbTsC34+ScoL5MTDU1QAWdqUC1T7xT0lCvQELaIhBTXAYrznJl6PlA83oqlMxpHh0gZBB1jFbfoUr7OQbBs1xqzpYK6Yjux6diwpQB1zlZErYJUfCqK7G/zI9yK/60b4HW0k3M+AvzMcw=";
/// Body of S2 and S2b, byte for byte.
const BODY_S2: &[u8] = br#"{"encrypt":"P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="}"#;

fn decrypted(key: &str, ciphertext: &str) -> String {
    String::from_utf8(decrypt(key, ciphertext).unwrap()).unwrap()
}

#[test]
fn v1_of_the_official_documentation_decrypts() {
    assert_eq!(decrypted("test key", V1), "hello world");
    assert_eq!(
        hex::encode(*key("test key")),
        "fa2bdca424f01f01ffb48df93acc35d439c7fd331a1a7fba6ac2fd83aa9ab31a"
    );
    let iv = hex::decode("3f7ef0f9564898d80f10ed5106127a46").unwrap();
    assert_eq!(encrypt("test key", iv.try_into().unwrap(), b"hello world"), V1);
}

#[test]
fn v2_of_the_go_sdk_decrypts() {
    assert_eq!(decrypted("1212121212", V2), V2_PLAIN);
}

#[test]
fn v3_of_the_official_documentation_decrypts() {
    let event: serde_json::Value = serde_json::from_str(&decrypted("kudryavka", V3)).unwrap();
    assert_eq!(event["uuid"], "5226cd85b4d843dccee2e279d93f3ed3");
    assert_eq!(event["type"], "event_callback");
    assert_eq!(event["token"], "GzhQEyfUcx7eEungQFWtXgCbxSpUOJIb");
    assert_eq!(event["ts"], "1589970805.376395");
    assert_eq!(event["event"]["type"], "user_status_change");
    assert_eq!(event["event"]["app_id"], "cli_9e28cb7ba56a100e");
}

#[test]
fn e1_and_e2_encrypt_and_decrypt() {
    let counting: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap());
    assert_eq!(encrypt("test key", counting, E1_PLAIN.as_bytes()), E1);
    assert_eq!(decrypted("test key", E1), E1_PLAIN);
    assert_eq!(encrypt("kx", [0xab; 16], E2_PLAIN.as_bytes()), E2);
    assert_eq!(decrypted("kx", E2), E2_PLAIN);
}

#[test]
fn s1_signs_the_event_of_the_go_sdk() {
    let signature = "4dca085198cb3216defc5b65b0668c1328b038a22dbadf2bc6c4fdc3d32bbc45";
    assert_eq!(V2_PLAIN.len(), 432);
    assert_eq!(
        signature_sha256("timestamp", "nonce", "1212121212", V2_PLAIN.as_bytes()),
        signature
    );
    assert!(verify_sha256(
        signature,
        "timestamp",
        "nonce",
        "1212121212",
        V2_PLAIN.as_bytes()
    ));
}

#[test]
fn s2_signs_an_encrypted_body() {
    let signature = "f898bd6ed5ac6f50d42c59495e0c9f0d562615fabe54898b88e2594f6e829273";
    assert_eq!(BODY_S2.len(), 58);
    assert_eq!(
        signature_sha256("1700000000", "nonce-0001", "test key", BODY_S2),
        signature
    );
    assert!(verify_sha256(
        signature,
        "1700000000",
        "nonce-0001",
        "test key",
        BODY_S2
    ));
}

#[test]
fn s2b_signs_an_old_card_callback() {
    let signature = "21d9e6f05a2c53af4efede24bf89166d4905bcae";
    assert_eq!(signature_sha1("1700000000", "nonce-0001", "vtoken", BODY_S2), signature);
    assert!(verify_sha1(signature, "1700000000", "nonce-0001", "vtoken", BODY_S2));
}

#[test]
fn s3_signs_a_wrapped_body() {
    let signature = "5ec26637b1e26ea6b0c95db475844561b2ebcb96accf2f87ef485460e5015767";
    let body = format!(r#"{{"encrypt":"{E2}"}}"#);
    assert_eq!(signature_sha256("1700000001", "n2", "kx", body.as_bytes()), signature);
    assert!(verify_sha256(signature, "1700000001", "n2", "kx", body.as_bytes()));
}

#[test]
fn only_the_lowercase_spelling_of_a_signature_is_right() {
    let signature = signature_sha256("1", "2", "k", b"body");
    assert!(!verify_sha256(&signature.to_uppercase(), "1", "2", "k", b"body"));
    assert!(!verify_sha256("", "1", "2", "k", b"body"));
    assert!(!verify_sha256(&signature[..63], "1", "2", "k", b"body"));
    assert!(!verify_sha1(&signature, "1", "2", "k", b"body"));
}

#[test]
fn bad_padding_is_refused() {
    // The last plaintext byte is the padding's length: whatever an attacker turns it into, only the exact run passes.
    let good = STANDARD.decode(encrypt("k", [7; 16], b"0123456789")).unwrap();
    for wanted in 0..=255_u8 {
        let mut data = good.clone();
        data[15] ^= 6 ^ wanted;
        let result = decrypt("k", &STANDARD.encode(&data));
        match wanted {
            1 => assert_eq!(result.unwrap(), b"0123456789\x06\x06\x06\x06\x06"),
            6 => assert_eq!(result.unwrap(), b"0123456789"),
            _ => assert_eq!(result, Err(DecryptError), "padding byte {wanted}"),
        }
    }
}

#[test]
fn what_is_no_ciphertext_is_refused() {
    let iv_only = STANDARD.encode([0; 16]);
    let odd = STANDARD.encode([0; 40]);
    let not_utf8 = encrypt("k", [0; 16], &[0xff, 0xfe]);
    let unpadded = V1.trim_end_matches('=');
    for ciphertext in ["", "no base64!", &iv_only, &odd, &not_utf8, unpadded] {
        assert_eq!(decrypt("k", ciphertext), Err(DecryptError), "{ciphertext}");
    }
    assert_eq!(decrypt("another key", E2), Err(DecryptError));
}

proptest! {
    #[test]
    fn whatever_is_encrypted_decrypts(key in ".{0,40}", iv: [u8; 16], plaintext in ".{0,200}") {
        let ciphertext = encrypt(&key, iv, plaintext.as_bytes());
        prop_assert_eq!(decrypt(&key, &ciphertext).unwrap(), plaintext.into_bytes());
    }

    #[test]
    fn any_flipped_bit_fails_verification(
        body in prop::collection::vec(any::<u8>(), 1..200),
        index: prop::sample::Index,
        bit in 0..8_u32,
    ) {
        let (timestamp, nonce, secret) = ("1700000000", "nonce", "secret");
        let sha256 = signature_sha256(timestamp, nonce, secret, &body);
        let sha1 = signature_sha1(timestamp, nonce, secret, &body);
        prop_assert!(verify_sha256(&sha256, timestamp, nonce, secret, &body));
        prop_assert!(verify_sha1(&sha1, timestamp, nonce, secret, &body));

        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        // A flip that leaves ASCII cannot travel in a header; the text is then another one all the same.
        let flip_text = |text: &str| String::from_utf8_lossy(&flip(text.as_bytes())).into_owned();
        for (sha256, sha1, timestamp, nonce, secret, body) in [
            (flip_text(&sha256), flip_text(&sha1), timestamp.to_owned(), nonce.to_owned(), secret.to_owned(), body.clone()),
            (sha256.clone(), sha1.clone(), flip_text(timestamp), nonce.to_owned(), secret.to_owned(), body.clone()),
            (sha256.clone(), sha1.clone(), timestamp.to_owned(), flip_text(nonce), secret.to_owned(), body.clone()),
            (sha256.clone(), sha1.clone(), timestamp.to_owned(), nonce.to_owned(), flip_text(secret), body.clone()),
            (sha256.clone(), sha1.clone(), timestamp.to_owned(), nonce.to_owned(), secret.to_owned(), flip(&body)),
        ] {
            prop_assert!(!verify_sha256(&sha256, &timestamp, &nonce, &secret, &body));
            prop_assert!(!verify_sha1(&sha1, &timestamp, &nonce, &secret, &body));
        }
    }
}
