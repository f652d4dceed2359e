//! Short histories that are not as they should be: each check must see what is wrong with its own.
