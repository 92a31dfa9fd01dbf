//! Writes an integer network of this project as ONNX: `opt_to_onnx FILE.opt OUT.onnx`.

use std::path::PathBuf;
use std::process::ExitCode;

use opt_format::onnx::{QdqOptions, write_qdq};

fn main() -> ExitCode {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(from), Some(to), None) = (paths.next(), paths.next(), paths.next()) else {
        eprintln!("usage: opt_to_onnx FILE.opt OUT.onnx");
        return ExitCode::FAILURE;
    };
    let written = opt_artifact::load_qmodel(&from)
        .map_err(opt_format::FormatError::from)
        .and_then(|model| write_qdq(&model, &QdqOptions::default()))
        .and_then(|bytes| Ok(opt_artifact::save(&to, &bytes)?));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", from.display());
            ExitCode::FAILURE
        }
    }
}
