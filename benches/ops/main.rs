//! Speed of each op, on the CPU and on the first GPU.
//!
//! A case states the bytes it must move and checks its answer before it is timed; data are random.
//! On CUDA each call is timed by device events with a cold L2. Below criterion's report of a case, one line
//! gives the median, the spread and the share of the bandwidth that a copy reached on the
//! same device just before; where operations count, their rate and its share of a matrix product's.
//!
//! On one thread (`RAYON_NUM_THREADS=1`) a CPU's times are processor time, which other work on the
//! machine does not lengthen.

mod anchor_box_loss;
mod anchor_decode;
mod attention;
mod attention_forms;
mod bench;
mod corner_decode;
mod corner_losses;
mod corner_pool;
mod dense;
mod heatmap_focal_loss;
mod match_anchors;
mod matmul;
mod measured;
mod nms;
mod retinanet;
mod sigmoid_focal_loss;
mod soft_nms;
mod timing;
mod vit;

use bench::Bench;

fn main() {
    let mut bench = Bench::new();
    attention::run(&mut bench);
    attention_forms::run(&mut bench);
    corner_losses::run(&mut bench);
    corner_pool::run(&mut bench);
    heatmap_focal_loss::run(&mut bench);
    corner_decode::run(&mut bench);
    anchor_box_loss::run(&mut bench);
    anchor_decode::run(&mut bench);
    match_anchors::run(&mut bench);
    dense::run(&mut bench);
    matmul::run(&mut bench);
    nms::run(&mut bench);
    retinanet::run(&mut bench);
    sigmoid_focal_loss::run(&mut bench);
    soft_nms::run(&mut bench);
    vit::run(&mut bench);
    bench.finish();
}
