//! The promises of the configuration folder.

mod contracts {
    mod config;
}
