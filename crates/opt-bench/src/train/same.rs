//! Whether a peer trains the network that ours trains: two programs are compared only where they do the same.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use opt_core::{Task, zoo};
use opt_nn::batch::normalize;
use opt_nn::forward::{Mode, forward};
use opt_nn::{Batch, Net, Precision};
use serde_json::json;
use tch::Device;

use super::peer::TIMEOUT;
use crate::peer::Peer;

/// Makes sure that the peer trains the same network: the same parameters by name and shape, and in training mode the
/// same answers from the same weights.
pub(super) fn check_same(peer: &mut Peer, network: &str) -> Result<()> {
    const CHECKED: usize = 4;
    let model = zoo::build(network, &Task::cifar10(), 1)?;
    let net = Net::new(&model, Device::Cpu)?;
    let ours: BTreeMap<String, Vec<i64>> = net
        .trainable()
        .into_iter()
        .map(|(name, _)| {
            let shape = net.tensor(&name).size();
            (name, shape)
        })
        .collect();
    let request = json!({"do": "parameters", "network": network});
    let theirs: BTreeMap<String, Vec<i64>> = peer.ask(&request, TIMEOUT)?;
    compare_parameters(&ours, &theirs)?;

    let images = opt_data::synthetic::synthetic(1, CHECKED, 0).train;
    let batch = Batch {
        images: images.images.to_vec(),
        labels: vec![0; CHECKED],
        indices: vec![0; CHECKED],
    };
    let bytes = batch.bytes(net.input(), Device::Cpu)?;
    let mut values = Vec::<f32>::try_from(normalize(&bytes, net.input()).contiguous().view([-1]))?;
    for name in ours.keys() {
        values.extend(Vec::<f32>::try_from(net.tensor(name).reshape([-1]))?);
    }
    let file = std::env::temp_dir().join(format!("opt-bench-{}.f32", std::process::id()));
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::File::create(&file)
        .and_then(|mut f| f.write_all(&raw))
        .with_context(|| format!("writing {}", file.display()))?;
    let names: Vec<&String> = ours.keys().collect();
    let request = json!({
        "do": "logits", "network": network, "file": file, "images": CHECKED, "names": names
    });
    let theirs = peer.ask::<Vec<f32>>(&request, TIMEOUT);
    // Only this process reads it.
    let _ = std::fs::remove_file(&file);
    let outputs = forward(&net, &bytes, Mode::Train, Precision::F32, &[]);
    let ours = Vec::<f32>::try_from(outputs.logits.detach().reshape([-1]))?;
    compare_logits(&ours, &theirs?)
}

fn compare_parameters(
    ours: &BTreeMap<String, Vec<i64>>,
    theirs: &BTreeMap<String, Vec<i64>>,
) -> Result<()> {
    let count = |p: &BTreeMap<String, Vec<i64>>| -> i64 {
        p.values().map(|shape| shape.iter().product::<i64>()).sum()
    };
    if let Some(name) = ours
        .keys()
        .chain(theirs.keys())
        .find(|name| ours.get(*name) != theirs.get(*name))
    {
        let shape = |p: &BTreeMap<String, Vec<i64>>| match p.get(name) {
            Some(shape) => format!("{shape:?}"),
            None => "missing".to_owned(),
        };
        anyhow::bail!(
            "the peer trains another network: {} parameters for {} of ours; `{name}` is {} there and {} here",
            count(theirs),
            count(ours),
            shape(theirs),
            shape(ours)
        );
    }
    Ok(())
}

/// The same sums of up to some thousand f32 products, in another order, through some twenty layers: far below a
/// thousandth of the largest logit. A stride, a pool or a shortcut that differs changes logits by their own size.
fn compare_logits(ours: &[f32], theirs: &[f32]) -> Result<()> {
    ensure!(
        ours.len() == theirs.len(),
        "the peer gives {} logits for {} of ours",
        theirs.len(),
        ours.len()
    );
    let largest = ours.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        // A NaN is not near.
        let near = (ours - theirs).abs() <= 1e-3 * largest;
        ensure!(
            near,
            "the peer trains another network: from the same weights it answers {theirs} where ours answers {ours} (the \
             largest of ours is {largest})"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shapes<'a> = &'a [(&'a str, &'a [i64])];

    #[test]
    fn another_network_is_refused() {
        let parameters = |entries: Shapes<'_>| -> BTreeMap<String, Vec<i64>> {
            let owned = |(n, s): &(&str, &[i64])| ((*n).to_owned(), s.to_vec());
            entries.iter().map(owned).collect()
        };
        let ours = parameters(&[("a.bias", &[2]), ("a.weight", &[2, 3])]);
        compare_parameters(&ours, &ours).unwrap();
        let cases: [(Shapes<'_>, &str); 4] = [
            // A parameter that is missing, one too many, another shape, another name with the same count.
            (
                &[("a.weight", &[2, 3])],
                "6 parameters for 8 of ours; `a.bias` is missing there and [2] here",
            ),
            (
                &[("a.bias", &[2]), ("a.weight", &[2, 3]), ("b", &[1])],
                "9 parameters for 8 of ours; `b` is [1] there and missing here",
            ),
            (
                &[("a.bias", &[2]), ("a.weight", &[3, 2])],
                "`a.weight` is [3, 2] there and [2, 3] here",
            ),
            (
                &[("a.bias", &[2]), ("b.weight", &[2, 3])],
                "`a.weight` is missing there",
            ),
        ];
        for (theirs, expected) in cases {
            let error = compare_parameters(&ours, &parameters(theirs)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        compare_logits(&[1.0, -20.0], &[1.001, -20.01]).unwrap();
        for theirs in [&[1.0, -20.1][..], &[1.0], &[f32::NAN, -20.0]] {
            compare_logits(&[1.0, -20.0], theirs).unwrap_err();
        }
    }
}
