//! Set-up, tests and tools of the project.
fn main() {}
