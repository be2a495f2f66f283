mod documents;
mod golden;
mod page;
mod refusals;
mod robustness;
