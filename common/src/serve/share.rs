//! Whose share of a node a client uses.

use std::net::{IpAddr, Ipv6Addr};

/// Of an address of version 6 only these bits tell clients apart: one machine has all the rest for itself.
const NETWORK_BITS: u32 = 64;

/// The address that stands for everybody who is to share with `address`.
#[must_use]
pub fn share(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host = u128::MAX >> NETWORK_BITS;
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !host))
        }
        address => address,
    }
}
