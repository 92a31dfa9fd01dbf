//! Checks an engine where it runs, against the images and answers that a file carries.

use opt_artifact::Golden;
use opt_core::QModel;

use crate::{ImageOrder, Kernels, Options, Result, Session};

/// Runs the images of `golden` through `model` with `kernels` and compares every code of every value and every bit of the
/// logits with what the reference interpreter gave when the file was written. Returns the number of images.
///
/// ```no_run
/// let (model, golden) = opt_artifact::load_qmodel_with_golden("net.opt".as_ref())?;
/// if let Some(golden) = golden {
///     opt_infer::self_test(&model, &golden, opt_infer::Kernels::best())?;
/// }
/// # Ok::<(), opt_infer::InferError>(())
/// ```
///
/// # Errors
///
/// Those of [`Session::new`]; [`crate::InferError::Artifact`] names the first image that is answered otherwise.
pub fn self_test(model: &QModel, golden: &Golden, kernels: Kernels) -> Result<usize> {
    let options = Options {
        kernels: Some(kernels),
        order: ImageOrder::Chw,
        keep_codes: true,
        ..Options::default()
    };
    let mut session = Session::new(model, &options)?;
    for n in 0..golden.count() {
        let logits = session.run(golden.image(n))?.to_vec();
        let nodes = 0..model.nodes.len();
        let codes: Vec<Vec<u8>> = nodes
            .map(|id| session.codes(id).unwrap_or_default())
            .collect();
        golden.check_codes(n, codes.iter().map(Vec::as_slice))?;
        golden.check_logits(n, &logits)?;
    }
    Ok(golden.count())
}
