//! Every promise of the three seams, over both implementations of each.

mod contracts {
    mod cache;
}
