//! `openclaw keys`: material for `encryption.keys`.

use crate::cli::Keys;
use crate::exit::Failure;
use crate::print;

pub(crate) fn run(command: &Keys) -> Result<(), Failure> {
    let key = openclaw_common::config::new_key();
    match command {
        Keys::New => print::line(&key),
        Keys::Rotate => print::line(&format!(
            "{}\n\n\
             1. Put it beside the old one under `encryption.keys`, with a new id, on every node; restart.\n\
             2. Set `encryption.active` to the new id on every node; restart. New bodies are sealed with it.\n\
             3. Keep the old key for as long as rows may be sealed with it: `database.retention` after step 2.",
            key.as_str()
        )),
    }
    Ok(())
}
