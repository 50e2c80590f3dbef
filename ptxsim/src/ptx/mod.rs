//! PTX text to a syntax tree: names are resolved, nothing is interpreted.

pub mod ast;
