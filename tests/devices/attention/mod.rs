#[cfg(feature = "cuda")]
mod backward_budget;
#[cfg(feature = "cuda")]
mod backward_problem;
