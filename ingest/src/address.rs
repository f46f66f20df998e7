//! Who is asking, through proxies; who may ask.
//!
//! The allow-list is defence in depth: the signature is what proves a push, and Feishu's addresses change.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;
use openclaw_common::config::Security;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address the request came from: the peer's, or, when the peer is a trusted proxy, the nearest address before the
/// trusted ones in `X-Forwarded-For`. `None` when a trusted proxy names none that can be read.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut client = peer.to_canonical();
    if !contains(trusted, client) {
        return Some(client);
    }
    let mut lines: Vec<&str> = Vec::new();
    for line in headers.get_all(FORWARDED_FOR) {
        lines.push(line.to_str().ok()?);
    }
    // Each proxy appends: from the right, hops are trustworthy until the first one that is not ours.
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        client = parse(hop.trim())?;
        if !contains(trusted, client) {
            break;
        }
    }
    Some(client)
}

/// Whether `client` may push.
pub(crate) fn allowed(security: &Security, client: Option<IpAddr>) -> bool {
    security.allowed_ips.is_empty() || client.is_some_and(|client| contains(&security.allowed_ips, client))
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// An address as proxies write it: bare, in brackets, with a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn seen(peer: &str, forwarded: &[&str], trusted: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client(peer.parse().unwrap(), &headers, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn a_stranger_s_header_is_not_believed() {
        assert_eq!(seen("203.0.113.9", &["10.0.0.1"], &[]).unwrap(), "203.0.113.9");
        assert_eq!(
            seen("203.0.113.9", &["10.0.0.1"], &["192.0.2.0/24"]).unwrap(),
            "203.0.113.9"
        );
    }

    #[test]
    fn hops_are_read_from_the_right_through_trusted_proxies_over_all_lines() {
        let trusted = &["10.0.0.0/8", "fd00::/8"];
        for (forwarded, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7, 10.2.3.4"], "198.51.100.7"),
            (&["1.1.1.1,198.51.100.7", "10.2.3.4, fd00::1"], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            (&["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(
                seen("10.0.0.1", forwarded, trusted).as_deref(),
                Some(expected),
                "{forwarded:?}"
            );
        }
        assert_eq!(
            seen("::ffff:10.0.0.1", &["198.51.100.7"], trusted).unwrap(),
            "198.51.100.7"
        );
    }

    #[test]
    fn an_unreadable_hop_is_nobody() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.7, unknown"], &["10.0.0.0/8"]), None);
        let security = Security {
            allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
            ..Security::default()
        };
        assert!(!allowed(&security, None));
        assert!(allowed(&Security::default(), None));
    }
}
