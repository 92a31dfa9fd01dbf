//! Removes half of the channels of a network and shows what is left: a smaller dense network.
//!
//! ```text
//! cargo run -p opt-prune --example smaller_network
//! ```
#![expect(clippy::print_stdout, reason = "an example shows its results")]

use std::error::Error;

use opt_core::{Task, cost::cost, zoo};
use opt_prune::{
    ChannelRequest, ChannelTarget, Criterion, Norm, plan_channels, prunable_channels,
    score_channels, shrink,
};

fn main() -> Result<(), Box<dyn Error>> {
    let model = zoo::build("source_net", &Task::cifar10(), 0)?;

    // Which layers can lose channels? The others say why not.
    for layer in prunable_channels(&model)? {
        let blocked = layer
            .blocked
            .map_or(String::new(), |why| format!(", not removable: {why}"));
        println!("{}: {} channels{blocked}", layer.layer, layer.channels);
    }

    // Score, decide, look at the decision, apply it.
    let scores = score_channels(&model, &Criterion::Magnitude(Norm::L2), None)?;
    let request = ChannelRequest::new(ChannelTarget::KeepRatio(0.5));
    let plan = plan_channels(&model, &scores, &request)?;
    for (layer, keep) in &plan.keep {
        println!("{layer} keeps {} channels: {keep:?}", keep.len());
    }
    let small = shrink(&model, &plan)?;

    let (before, after) = (cost(&model)?, cost(&small)?);
    println!("multiply-accumulates: {} → {}", before.macs, after.macs);
    println!(
        "weights:              {} → {}",
        before.weights, after.weights
    );
    assert!(after.macs * 3 < before.macs);
    Ok(())
}

#[test]
fn runs() -> Result<(), Box<dyn Error>> {
    main()
}
