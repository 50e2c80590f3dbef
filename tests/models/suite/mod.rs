//! The models' tests. The program of the ops takes them in for the GPU bundle, which has one test program.

mod golden;

mod bert;
mod cornernet;
mod retinanet;
mod saliency;
mod self_attention;
mod transformer;
mod vit;
