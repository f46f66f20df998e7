//! The promises of the three seams, each proved on both of its backends, and of the configuration folder.

mod contracts {
    mod cache;
    mod config;
    mod queue;
    mod store;
}
