//! The promises of the three seams, each proved on both of its backends.

mod contracts {
    mod cache;
    mod queue;
    mod store;
}
