//! Ours, trained for the clock: the whole path of `train` and `experiment`, on synthetic images.

use std::time::Instant;

use anyhow::Result;
use opt_core::{Task, zoo};
use opt_data::batches::TrainOptions as BatchOptions;
use opt_experiment::data::Loader;
use opt_experiment::recipe::Train;
use opt_nn::train::{Constraints, CrossEntropy, NoHooks, TrainOptions, train};
use opt_nn::{Batch, BatchSource, Net};
use tch::Device;

/// Images in a batch.
pub(super) const BATCH: usize = 128;

/// What differs from the defaults of a recipe: small enough for every network to stay finite.
const RECIPE: &str = "epochs = 1\nbatch = 128\nlr = 0.02";

/// Images that ours draws its batches from: 50 batches an epoch.
const IMAGES: usize = 50 * BATCH;

/// Ours, ready to train.
pub(super) struct Ours {
    net: Net,
    loader: Loader,
    options: TrainOptions,
    /// The epoch that the next run begins with.
    epoch: usize,
}

/// The first so many batches from an epoch on.
struct Steps<'a> {
    loader: &'a Loader,
    first_epoch: usize,
    steps: usize,
}

impl BatchSource for Steps<'_> {
    fn epoch(&self, _epoch: usize) -> Box<dyn Iterator<Item = Batch> + '_> {
        let epochs = (self.first_epoch..).flat_map(|epoch| self.loader.epoch(epoch));
        Box::new(epochs.take(self.steps))
    }

    fn batches_per_epoch(&self) -> usize {
        self.steps
    }
}

/// The recipe that is timed.
fn recipe() -> Result<Train> {
    let recipe: Train = toml::from_str(RECIPE)?;
    recipe.check()?;
    Ok(recipe)
}

/// Synthetic images in the way that real ones take: cropped, flipped, made on a thread of their own.
pub(super) fn loader() -> Result<Loader> {
    let recipe = recipe()?;
    let images = opt_data::synthetic::synthetic(0, IMAGES, 0).train;
    let options = BatchOptions {
        batch_size: recipe.batch,
        augment: recipe.augmentation(images.channels),
        ..BatchOptions::default()
    };
    Ok(Loader::new(images, options))
}

impl Ours {
    pub(super) fn new(network: &str, loader: Loader) -> Result<Self> {
        let model = zoo::build(network, &Task::cifar10(), 0)?;
        Ok(Self {
            net: Net::new(&model, Device::Cpu)?,
            loader,
            options: recipe()?.options(Device::Cpu),
            epoch: 0,
        })
    }

    /// Trains so many steps and returns the seconds they took.
    pub(super) fn run(&mut self, steps: usize) -> Result<f64> {
        let batches = Steps {
            loader: &self.loader,
            first_epoch: self.epoch,
            steps,
        };
        let mut loss = CrossEntropy {
            label_smoothing: 0.0,
        };
        let started = Instant::now();
        train(
            &mut self.net,
            &batches,
            &mut loss,
            &self.options,
            Constraints::default(),
            &mut NoHooks,
        )?;
        let seconds = started.elapsed().as_secs_f64();
        self.epoch += steps.div_ceil(self.loader.batches_per_epoch());
        Ok(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opt_experiment::recipe::Optimizer;

    #[test]
    fn runs_take_as_many_steps_as_asked_over_the_ends_of_epochs() {
        let images = opt_data::synthetic::synthetic(0, 20, 0).train;
        let options = BatchOptions {
            batch_size: 10,
            ..BatchOptions::default()
        };
        let loader = Loader::new(images, options);
        let steps = Steps {
            loader: &loader,
            first_epoch: 3,
            steps: 5,
        };
        let batches: Vec<Batch> = steps.epoch(0).collect();
        assert_eq!((batches.len(), steps.batches_per_epoch()), (5, 5));
        // Two batches an epoch, beginning with epoch 3.
        let expected: Vec<Batch> = (3..6).flat_map(|e| loader.epoch(e)).take(5).collect();
        assert_eq!(batches, expected);
        assert_ne!(batches[0], loader.epoch(0).next().unwrap());
    }

    #[test]
    fn ours_trains_what_it_is_timed_for() {
        let images = opt_data::synthetic::synthetic(0, 20, 0).train;
        let options = BatchOptions {
            batch_size: 10,
            ..BatchOptions::default()
        };
        let mut ours = Ours::new("airbench_2_2_2", Loader::new(images, options)).unwrap();
        let before = ours.net.to_model().unwrap();
        assert!(ours.run(3).unwrap() > 0.0);
        // The weights moved, and the next run goes on with the epoch after the two that were begun.
        assert_ne!(ours.net.to_model().unwrap().params, before.params);
        assert_eq!(ours.epoch, 2);
        let recipe = recipe().unwrap();
        assert!(recipe.weight_decay > 0.0);
        let nesterov = matches!(recipe.optimizer, Optimizer::Sgd { nesterov: true, .. });
        assert!(nesterov, "{recipe:?}");
        assert_eq!(recipe.batch, BATCH);
    }
}
