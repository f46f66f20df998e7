//! The promises of the three seams, each proved on both of its backends, and of the configuration folder.

mod contracts {
    mod config;
//! The promises of the three seams, each proved on both of its backends.

mod contracts {
    mod queue;
//! Every promise of the three seams, over both implementations of each.

mod contracts {
    mod cache;
}
