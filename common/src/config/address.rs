//! URLs of other servers, whose user and password must not be taken for something else.
//!
//! A `#`, `?` or `/` inside a password ends the part of a URL that it belongs to. When the password begins with digits, what is
//! left of it is a port, and everything parses: the host is the user's name. So the text itself is looked at before any parser.

use url::Url;

use super::credential::{PLACEHOLDER, is_placeholder};
use crate::secret::Secret;

/// Names no character that was found: it is one of a password.
const ESCAPES: &str = "has a special character that is not escaped, in its user or password or behind them: write `#` as %23, \
                       `?` as %3F, `/` as %2F, `@` as %40 and `%` as %25";

/// The URL of one of the shared systems. It holds a password, so the sentence repeats nothing of it.
pub(super) fn server_url(schemes: &'static [&'static str]) -> impl Fn(&str) -> Result<Secret, String> {
    move |text| {
        let wanted = || {
            let schemes: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
            schemes.join(" or ")
        };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if !scheme.is_some_and(|scheme| schemes.contains(&scheme.as_str())) {
            return Err(format!("does not begin with {}", wanted()));
        }
        if !is_escaped(text) {
            return Err(ESCAPES.to_owned());
        }
        match Url::parse(text) {
            Ok(url) if url.password().is_some_and(is_placeholder) => Err(format!("its password {PLACEHOLDER}")),
            Ok(_) => Ok(Secret::new(text)),
            Err(reason) => Err(format!("is not a URL beginning with {}: {reason}", wanted())),
        }
    }
}

/// Scheme, host and port of the Open API, without a slash at the end.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    if text.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err("holds a space or a line end".to_owned());
    }
    match Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Err("does not begin with http:// or https://".to_owned())
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => Err("must end before `?` and `#`".to_owned()),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("must not hold a user or password".to_owned())
        }
        Ok(url) if url.path().contains(|character| character != '/') => Err(format!(
            "holds a path, and the paths of the Open API are added to it: write {}",
            url.origin().ascii_serialization()
        )),
        Ok(_) => Ok(text.trim_end_matches('/').to_owned()),
        Err(reason) => Err(format!("is not a URL such as https://open.feishu.cn: {reason}")),
    }
}

/// Whether each part of a URL with a user ends where its writer meant it to.
fn is_escaped(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A socket's path may hold anything, and has no user before it.
    let at_home = authority.matches('@').count() <= 1 && (scheme == "unix" || !tail.contains('@'));
    // The one fragment that means something: Redis by TLS whose certificate nobody looks at.
    let unfragmented = !tail.trim_end_matches("#insecure").contains('#');
    // Parsers drop line ends and tabs anywhere, and spaces at both ends.
    let whole = !text.contains(char::is_control) && text.trim() == text;
    at_home && unfragmented && whole && decodes(authority)
}

/// Whether every `%` begins an escape, and what they stand for is text.
fn decodes(text: &str) -> bool {
    let escapes = text.split('%').skip(1);
    let hexadecimal = |escape: &str| {
        let digits = escape.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    escapes.into_iter().all(hexadecimal) && percent_encoding::percent_decode_str(text).decode_utf8().is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn any(text: &str) -> Result<Secret, String> {
        server_url(&["amqp", "amqps", "redis", "rediss", "unix", "postgres", "postgresql"])(text)
    }

    #[test]
    fn a_password_that_needs_escaping_is_told_how_and_never_repeated() {
        for text in [
            "amqp://openclaw:4711#geheim@rabbit:5672/%2f",
            "redis://openclaw:4711#geheim@redis:6379/0",
            "postgres://openclaw:47?geheim@pg:5432/openclaw",
            "amqp://openclaw:4711/geheim@rabbit:5672/%2f",
            "amqp://openclaw:geheim@4711@rabbit:5672/%2f",
            "amqp://openclaw:geheim#x@rabbit:5672/%2f",
            "amqp://openclaw:4711%geheim@rabbit:5672/%2f",
            "amqp://openclaw:geheim%ff@rabbit:5672/%2f",
            "amqp://openclaw:geheim\t4711@rabbit:5672/%2f",
            "redis://:4711#geheim@redis",
            "redis://4711#geheim",
            "rediss://:4711#insecure@redis/#geheim",
            "postgres://open#claw:geheim@pg/openclaw",
        ] {
            assert_eq!(any(text).err().as_deref(), Some(ESCAPES), "{text}");
        }
        for part in ["geheim", "4711", "47"] {
            assert!(!ESCAPES.contains(part));
        }
    }

    #[test]
    fn an_escaped_password_is_what_its_drivers_read() {
        for text in [
            "amqp://openclaw:4711%23geheim@rabbit:5672/%2f",
            "amqp://openclaw:a%40b%2Fc%3Fd%25e%20f@rabbit:5672/team",
            "amqp://openclaw:p: {x@rabbit:5672/%2f",
            "amqps://openclaw:a:b!$&'()*+,;=~.-_|^`@rabbit",
            "redis://:4711%23geheim@redis:6379/0",
            "rediss://redis:6379/0#insecure",
            "redis://redis",
            "unix:///run/redis@home.sock?db=1",
            "postgres://openclaw:47%3Fgeheim@pg:5432/openclaw?sslmode=require",
            "postgres:///openclaw?host=/run/postgresql",
            "postgres://u:p@[::1]:5432/d",
        ] {
            let read = any(text).map_err(|sentence| format!("{text}: {sentence}"));
            assert_eq!(read.as_ref().map(Secret::expose).map_err(String::as_str), Ok(text));
        }
    }

    #[test]
    fn a_server_url_is_never_repeated() {
        let parse = server_url(&["amqp", "amqps"]);
        for text in [
            "http://user:hunter2@host/",
            "user:hunter2@host",
            "amqp:user:hunter2@host",
            "amqp:/user:hunter2@host",
            "amqp://user:hunter2@host:port",
            "amqp://user:change-me@host",
            "hunter2",
        ] {
            let sentence = parse(text).expect_err(text);
            assert!(
                !sentence.contains("hunter2") && !sentence.contains("user:"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn base_urls_lose_their_last_slash() {
        assert_eq!(
            base_url("http://127.0.0.1:8080/"),
            Ok("http://127.0.0.1:8080".to_owned())
        );
        for text in [
            "open.feishu.cn",
            "ftp://x",
            "https://",
            "https://x/?a=1",
            "https://u:p@x",
            "https://open.feishu.cn ",
            "https://https://open.feishu.cn",
        ] {
            assert!(base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_base_url_with_a_path_is_told_what_to_write() {
        let sentence = base_url("https://open.larksuite.com/open-apis").expect_err("a path");
        assert!(sentence.ends_with("write https://open.larksuite.com"), "{sentence}");
        let sentence = base_url("http://127.0.0.1:9300/open-apis/").expect_err("a path");
        assert!(sentence.ends_with("write http://127.0.0.1:9300"), "{sentence}");
    }
}
