//! Ingest from outside: real sockets, real queues, real caches.
//!
//! | file | promise |
//! |---|---|
//! | `answers` | what each kind of request is answered with |
//! | `delivery` | an event answered with 200 is in the queue, once |
//! | `servers` | the same with RabbitMQ and Redis, whole and broken |
//! | `forged` | what is pushed passes for nothing else |
//! | `hostile` | one address keeps nobody else's events out |
//! | `limits` | no client can keep the events of others out |
//! | `stop` | stopping loses nothing |

mod http {
    mod answers;
    mod client;
    mod delivery;
    mod forged;
    mod hostile;
    mod limits;
    mod servers;
    mod stop;
    mod world;
}
