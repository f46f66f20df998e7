//! The seams' promises, checked on every backend, and the configuration on real files.

mod contracts {
    mod cache;
    mod config;
    mod queue;
}
