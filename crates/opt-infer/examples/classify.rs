//! Classifies an image file with a network from a `.opt` file:
//! `cargo run --release -p opt-infer --example classify -- NET.opt IMAGE.png`
//!
//! The image is prepared as those were with which the network's accuracy was measured: the file says how, `opt-image` does it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use opt_infer::{Options, Session};

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [net, image] = paths.as_slice() else {
        eprintln!("usage: classify NET.opt IMAGE.png");
        return ExitCode::FAILURE;
    };
    match classify(net, image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The image as the network reads it.
pub(crate) fn prepared(session: &Session, image: &Path) -> opt_image::Result<Vec<u8>> {
    let input = session.input();
    opt_image::load(image, input.shape, &input.preparation)
}

#[expect(clippy::print_stdout, reason = "the result of the program")]
fn classify(net: &Path, image: &Path) -> Result<(), Box<dyn Error>> {
    let mut session = Session::load(net, &Options::default())?;
    let planes = prepared(&session, image)?;
    let started = Instant::now();
    let logits = session.run(&planes)?.to_vec();
    let time = started.elapsed();

    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mut classes: Vec<(&str, f32)> = session
        .labels()
        .iter()
        .map(String::as_str)
        .zip(weights.iter().map(|w| w / sum))
        .collect();
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (label, probability) in classes.iter().take(3) {
        println!("{:5.1} %  {label}", 100.0 * probability);
    }
    println!(
        "{:.0} µs, one thread, kernels {}",
        time.as_secs_f64() * 1e6,
        session.kernels()
    );
    Ok(())
}
