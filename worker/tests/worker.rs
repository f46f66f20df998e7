//! The worker against real sockets and real servers. One binary, one link step.

mod worker {
    mod client;
    mod handler;
    mod script;
    mod simulated;
    mod token;
}
