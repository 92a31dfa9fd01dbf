//! From a checkpoint to a running `.opt` file, without libtorch:
//! `cargo run --release -p opt-cli --example compress -- resnet20 resnet20.safetensors cifar-10-batches-bin resnet20.opt`
//!
//! Zoo → import → fold and observe → scales and codes → integer network → file → session. The data are a folder that
//! `--data` takes, or `synthetic`; normalisation is that of CIFAR-10.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};

use opt_compress::{WeightBits, calibrate};
use opt_core::lower::ResidualAdd;
use opt_core::{Task, zoo};
use opt_data::source::{Options as Sources, resolve};
use opt_format::{Head, import_safetensors};
use opt_infer::{Options, Session};

#[expect(clippy::print_stdout, reason = "the result of the program")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [network, checkpoint, data, file] = arguments.as_slice() else {
        return Err("usage: compress NETWORK CHECKPOINT.safetensors DATA NET.opt".into());
    };
    let data = resolve(
        &data.parse()?,
        &Sources::new(Path::new(".")),
        &mut |_, _| {},
    )?
    .splits;

    let model = zoo::build(network, &Task::cifar10(), 0)?;
    let (model, _report) = import_safetensors(&std::fs::read(checkpoint)?, &model, Head::Imported)?;

    let images = (0..data.train.len().min(1000)).map(|i| data.train.image(i).to_vec());
    let calibrated = calibrate(&model, &BTreeSet::new(), images)?;
    let integer = calibrated.lower(ResidualAdd::Fused, WeightBits::hidden(8))?;

    let bytes = opt_artifact::write_qmodel(&integer, &Default::default())?;
    let file = PathBuf::from(file);
    opt_artifact::save(&file, &bytes)?;

    let mut session = Session::load(&file, &Options::default())?;
    let classes = session.labels().len();
    let mut right = 0;
    for (i, label) in data.test.labels.iter().enumerate() {
        let logits = session.run(data.test.image(i))?;
        let best = (0..classes).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        right += usize::from(best == Some(usize::from(*label)));
    }
    println!(
        "{}: {} bytes, {right} of {} test images right",
        file.display(),
        bytes.len(),
        data.test.len()
    );
    Ok(())
}
