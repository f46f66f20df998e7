//! The open connections, and which of them goes when there is no room for another.
//!
//! Places are shared between addresses: nobody is limited while there are places left; when there are none, the address that
//! holds most gives one up, so that one client's sockets, however many and in whatever state, keep nobody else's requests
//! out. A trusted proxy's connections belong to many clients: each of them counts for itself.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::share::share;
use crate::telemetry;

/// Of so many connections without a request, oldest first, the one that has been so longest goes: looking at all of them for
/// each newcomer would be an attacker's gain.
const LOOKED_AT: usize = 128;

/// The open connections.
#[derive(Default)]
pub(super) struct Open {
    places: Mutex<Places>,
    /// Whose connections are others' connections.
    proxies: Vec<IpNet>,
    pub(super) left: Notify,
}

#[derive(Default)]
struct Places {
    last: u64,
    count: usize,
    by_owner: HashMap<Owner, Owned>,
}

/// Connections of one owner that are to stay, by number: oldest first.
type Owned = BTreeMap<u64, Arc<State>>;

/// Whose share a connection uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Address(IpAddr),
    /// Everybody behind the trusted proxies.
    Proxied,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Proxied => formatter.write_str("the trusted proxies"),
        }
    }
}

impl Open {
    pub(super) fn new(proxies: Vec<IpNet>) -> Self {
        Self {
            proxies,
            ..Self::default()
        }
    }

    pub(super) fn owner(&self, peer: IpAddr) -> Owner {
        let peer = peer.to_canonical();
        if self.proxies.iter().any(|net| net.contains(&peer)) {
            Owner::Proxied
        } else {
            Owner::Address(share(peer))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.lock().count
    }

    pub(super) fn enter(self: &Arc<Self>, owner: Owner, cut: &CancellationToken) -> Connection {
        let state = Arc::new(State::new(cut.child_token()));
        let mut places = self.lock();
        places.last += 1;
        places.count += 1;
        let number = places.last;
        places.by_owner.entry(owner).or_default().insert(number, state.clone());
        telemetry::CONNECTIONS.add(1.0);
        Connection {
            open: self.clone(),
            owner,
            number,
            state,
        }
    }

    /// Makes a connection go for one of `newcomer`'s; `None`: none can go, it has to wait.
    pub(super) fn make_room(&self, newcomer: Owner) -> Option<Owner> {
        let mut places = self.lock();
        let (owner, number) = places.victim(newcomer)?;
        // It no longer counts for its owner, so that the next one is chosen rightly while this one is still leaving.
        if let Some(state) = places.leave(owner, number) {
            state.cut.cancel();
            telemetry::CONNECTIONS_CUT.add(1);
        }
        Some(owner)
    }
}

impl Places {
    fn held(&self, owner: Owner) -> usize {
        self.by_owner.get(&owner).map_or(0, BTreeMap::len)
    }

    fn victim(&self, newcomer: Owner) -> Option<(Owner, u64)> {
        // What the newcomer's owner would hold. Nobody who holds less gives anything up for it.
        let wanted = match newcomer {
            Owner::Address(_) => self.held(newcomer) + 1,
            Owner::Proxied => 1,
        };
        let mut heaviest: Vec<(usize, Owner)> = Vec::new();
        for (owner, owned) in &self.by_owner {
            let weight = match owner {
                Owner::Address(_) => owned.len(),
                Owner::Proxied => 1,
            };
            if weight >= wanted || *owner == newcomer {
                heaviest.push((weight, *owner));
            }
        }
        heaviest.sort_unstable_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        heaviest.into_iter().find_map(|(weight, owner)| {
            let owned = self.by_owner.get(&owner)?;
            let idle = owned
                .iter()
                .filter_map(|(number, state)| Some((state.idle_from()?, *number)));
            let idlest = idle.take(LOOKED_AT).min().map(|(_, number)| number);
            // A request that has begun goes only for one of somebody who holds less by far, or of its own client.
            let may_stop = weight > wanted || owner == newcomer && newcomer != Owner::Proxied;
            let arriving = || {
                owned
                    .iter()
                    .find(|(_, state)| state.is_arriving())
                    .map(|(number, _)| *number)
            };
            let number = idlest.or_else(|| arriving().filter(|_| may_stop))?;
            Some((owner, number))
        })
    }

    fn leave(&mut self, owner: Owner, number: u64) -> Option<Arc<State>> {
        let owned = self.by_owner.get_mut(&owner)?;
        let state = owned.remove(&number);
        if owned.is_empty() {
            self.by_owner.remove(&owner);
        }
        state
    }
}

/// One open connection; leaves the list when dropped, also by a panic.
pub(super) struct Connection {
    open: Arc<Open>,
    owner: Owner,
    number: u64,
    pub(super) state: Arc<State>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut places = self.open.lock();
        places.count -= 1;
        places.leave(self.owner, self.number);
        drop(places);
        self.open.left.notify_one();
        telemetry::CONNECTIONS.add(-1.0);
    }
}

/// What a connection is doing.
pub(super) struct State {
    opened: Instant,
    /// Milliseconds after `opened` since when it has no request; [`ARRIVING`] or [`AT_WORK`] while it has one.
    phase: AtomicU64,
    /// Requests whose headers have been read.
    begun: AtomicU64,
    pub(super) cut: CancellationToken,
}

/// The body of its request is still to come.
const ARRIVING: u64 = u64::MAX - 1;
/// Its request is there.
const AT_WORK: u64 = u64::MAX;

impl State {
    fn new(cut: CancellationToken) -> Self {
        Self {
            opened: Instant::now(),
            phase: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            cut,
        }
    }

    /// A request's headers are there, and perhaps all of it.
    pub(super) fn begin(&self, whole: bool) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let phase = if whole { AT_WORK } else { ARRIVING };
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// The request's body is there.
    pub(super) fn arrived(&self) {
        self.phase
            .compare_exchange(ARRIVING, AT_WORK, Ordering::Relaxed, Ordering::Relaxed)
            .ok();
    }

    /// The request is answered; whether all of it had been read.
    pub(super) fn end(&self) -> bool {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.phase.swap(since.min(ARRIVING - 1), Ordering::Relaxed) == AT_WORK
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn idle_from(&self) -> Option<Instant> {
        match self.phase.load(Ordering::Relaxed) {
            ARRIVING | AT_WORK => None,
            since => Some(self.opened + Duration::from_millis(since)),
        }
    }

    fn is_arriving(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == ARRIVING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "10.0.0.1";

    /// Connections by who opened them, in a house without any more room.
    struct House {
        open: Arc<Open>,
        connections: Vec<Connection>,
    }

    impl House {
        fn new() -> Self {
            let proxies = vec![IpNet::from(ip(PROXY))];
            Self {
                open: Arc::new(Open::new(proxies)),
                connections: Vec::new(),
            }
        }

        fn opened(&mut self, address: &str, count: usize, enter: impl Fn(&State)) {
            for _ in 0..count {
                let owner = self.open.owner(ip(address));
                let connection = self.open.enter(owner, &CancellationToken::new());
                enter(&connection.state);
                self.connections.push(connection);
            }
        }

        /// Who gives up a place for one of `address`.
        fn gives_up(&self, address: &str) -> Option<Owner> {
            self.open.make_room(self.open.owner(ip(address)))
        }
    }

    fn ip(text: &str) -> IpAddr {
        #[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
        text.parse().unwrap()
    }

    fn of(text: &str) -> Option<Owner> {
        Some(Owner::Address(share(ip(text))))
    }

    fn idle(_: &State) {}
    fn arriving(state: &State) {
        state.begin(false);
    }
    fn at_work(state: &State) {
        state.begin(true);
    }

    #[test]
    fn the_heaviest_address_gives_up_idle_places_first_and_then_half_requests() {
        let mut house = House::new();
        house.opened("192.0.2.1", 3, idle);
        house.opened("192.0.2.9", 2, arriving);
        house.opened("192.0.2.9", 4, idle);
        for _ in 0..3 {
            assert_eq!(house.gives_up("192.0.2.2"), of("192.0.2.9"));
        }
        // They hold the same now.
        let next = house.gives_up("192.0.2.2");
        assert!(next == of("192.0.2.1") || next == of("192.0.2.9"), "{next:?}");
        let left = |address| house.open.lock().held(Owner::Address(ip(address)));
        assert_eq!(left("192.0.2.1") + left("192.0.2.9"), 5);
    }

    #[test]
    fn a_request_that_arrives_goes_for_somebody_who_holds_less_and_one_at_work_never() {
        let mut house = House::new();
        house.opened("192.0.2.9", 3, arriving);
        house.opened("192.0.2.9", 5, at_work);
        for _ in 0..3 {
            assert_eq!(house.gives_up("192.0.2.2"), of("192.0.2.9"));
        }
        assert_eq!(house.gives_up("192.0.2.2"), None);
    }

    #[test]
    fn who_holds_most_takes_nothing_from_others() {
        let mut house = House::new();
        house.opened("192.0.2.1", 2, idle);
        house.opened("192.0.2.9", 3, at_work);
        assert_eq!(house.gives_up("192.0.2.9"), None);
        house.opened("192.0.2.9", 1, arriving);
        assert_eq!(house.gives_up("192.0.2.9"), of("192.0.2.9"));
    }

    #[test]
    fn of_one_address_the_longest_idle_goes() {
        let mut house = House::new();
        house.opened("192.0.2.1", 3, idle);
        for (connection, since) in house.connections.iter().zip([30, 10, 20]) {
            connection.state.phase.store(since, Ordering::Relaxed);
        }
        assert_eq!(house.gives_up("192.0.2.1"), of("192.0.2.1"));
        let cut: Vec<bool> = house
            .connections
            .iter()
            .map(|one| one.state.cut.is_cancelled())
            .collect();
        // By when it became idle, counted from its own opening.
        assert_eq!(cut, [false, true, false]);
    }

    #[test]
    fn a_trusted_proxy_is_not_one_client() {
        let mut house = House::new();
        house.opened(PROXY, 50, idle);
        house.opened(PROXY, 50, arriving);
        house.opened("192.0.2.9", 2, idle);
        assert_eq!(house.gives_up(PROXY), of("192.0.2.9"));
        // Now each address holds one: whoever has no request gives way.
        assert!(house.gives_up("192.0.2.2").is_some());
        let gone = std::iter::from_fn(|| house.gives_up(PROXY)).count();
        assert_eq!(gone, 50, "those without a request");
        // And nobody's request is stopped for one of somebody who holds as much.
        house.opened("192.0.2.9", 1, arriving);
        assert_eq!(house.gives_up(PROXY), None);
    }

    #[test]
    fn one_network_of_version_6_is_one_client() {
        let mut house = House::new();
        for number in 1..10 {
            house.opened(&format!("2001:db8::{number:x}"), 1, arriving);
        }
        house.opened("2001:db8:0:1::1", 2, idle);
        assert_eq!(house.gives_up("192.0.2.1"), of("2001:db8::"));
        assert_eq!(
            house.open.owner(ip("::ffff:192.0.2.1")),
            Owner::Address(ip("192.0.2.1"))
        );
    }
}
