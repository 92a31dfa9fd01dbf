//! Values as text that is the same wherever, whenever and by whatever compiler it is written.
//!
//! ```text
//! number   in decimal; a float in the shortest form with an exponent that reads back as the same bits
//! string   in quotes; \, " and line break behind a backslash
//! list     [a,b]          also arrays, tuples and maps (as lists of pairs)
//! option   none, some(a)
//! struct   name{field=a,other=b}
//! ```
//!
//! No form is the beginning of another's continuation, so that two different values never read alike. Structs are taken
//! apart by name: a field that they gain must be written too, or this file does not compile.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use opt_core::graph::{Graph, Node, Output};
use opt_core::lower::{Placement, ResidualAdd};
use opt_core::op::{Op, Window};
use opt_core::{InputSpec, Orientation, Preparation, QParams};
use opt_data::augment::{AugmentConfig, Border, Crop, Flip};
use opt_distill::Kd;
use opt_nn::Precision;
use opt_nn::optimizer::{AdamWOptions, Averaging, OptimizerOptions, Rule, SgdOptions};
use opt_nn::quantized::FakeQuant;
use opt_nn::schedule::Schedule;
use opt_nn::train::{CrossEntropy, TrainOptions};

/// Something that a result follows from.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no place in an identity yet",
    note = "write every field that a result can follow from: `impl Ingredient for {Self}` with `fields(\"name\").with(…)`"
)]
pub trait Ingredient {
    /// Appends the value.
    fn write(&self, text: &mut String);
}

/// A struct that is being written: [`fields`].
#[derive(Debug)]
pub struct Fields {
    text: String,
    empty: bool,
}

/// Begins a struct with this name.
#[must_use]
pub fn fields(name: &str) -> Fields {
    Fields {
        text: format!("{name}{{"),
        empty: true,
    }
}

impl Fields {
    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Ingredient) -> Self {
        if !self.empty {
            self.text.push(',');
        }
        self.empty = false;
        self.text.push_str(name);
        self.text.push('=');
        value.write(&mut self.text);
        self
    }
}

impl Ingredient for Fields {
    fn write(&self, text: &mut String) {
        text.push_str(&self.text);
        text.push('}');
    }
}

impl<T: Ingredient + ?Sized> Ingredient for &T {
    fn write(&self, text: &mut String) {
        (**self).write(text);
    }
}

impl<T: Ingredient + ?Sized> Ingredient for &mut T {
    fn write(&self, text: &mut String) {
        (**self).write(text);
    }
}

impl Ingredient for str {
    fn write(&self, text: &mut String) {
        text.push('"');
        for c in self.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

impl Ingredient for String {
    fn write(&self, text: &mut String) {
        self.as_str().write(text);
    }
}

macro_rules! in_decimal {
    ($($integer:ty)*) => {
        $(impl Ingredient for $integer {
            fn write(&self, text: &mut String) {
                // Writing to a string cannot fail.
                let _ = write!(text, "{self}");
            }
        })*
    };
}
in_decimal!(bool u8 u16 u32 u64 usize i32 i64);

macro_rules! with_exponent {
    ($($float:ty)*) => {
        $(impl Ingredient for $float {
            fn write(&self, text: &mut String) {
                // Writing to a string cannot fail.
                let _ = write!(text, "{self:e}");
            }
        })*
    };
}
with_exponent!(f32 f64);

impl<T: Ingredient> Ingredient for Option<T> {
    fn write(&self, text: &mut String) {
        match self {
            None => text.push_str("none"),
            Some(value) => {
                text.push_str("some(");
                value.write(text);
                text.push(')');
            }
        }
    }
}

impl<T: Ingredient> Ingredient for [T] {
    fn write(&self, text: &mut String) {
        text.push('[');
        for (n, value) in self.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            value.write(text);
        }
        text.push(']');
    }
}

impl<T: Ingredient, const N: usize> Ingredient for [T; N] {
    fn write(&self, text: &mut String) {
        self.as_slice().write(text);
    }
}

impl<T: Ingredient> Ingredient for Vec<T> {
    fn write(&self, text: &mut String) {
        self.as_slice().write(text);
    }
}

impl<T: Ingredient> Ingredient for BTreeMap<String, T> {
    fn write(&self, text: &mut String) {
        let pairs: Vec<(&String, &T)> = self.iter().collect();
        pairs.write(text);
    }
}

macro_rules! as_lists {
    ($(($first:ident $($name:ident)*))*) => {
        $(impl<$first: Ingredient, $($name: Ingredient),*> Ingredient for ($first, $($name,)*) {
            #[expect(non_snake_case, reason = "the types' names serve as those of the values")]
            fn write(&self, text: &mut String) {
                let ($first, $($name,)*) = self;
                text.push('[');
                $first.write(text);
                $(
                    text.push(',');
                    $name.write(text);
                )*
                text.push(']');
            }
        })*
    };
}
as_lists!((A B) (A B C) (A B C D));

impl Ingredient for Graph {
    fn write(&self, text: &mut String) {
        let Self { nodes, outputs } = self;
        let fields = fields("graph").with("nodes", nodes);
        fields.with("outputs", outputs).write(text);
    }
}

impl Ingredient for Output {
    fn write(&self, text: &mut String) {
        let Self { node, labels } = self;
        (node, labels).write(text);
    }
}

impl Ingredient for Node {
    fn write(&self, text: &mut String) {
        let Self { name, op, inputs } = self;
        (name, op, inputs).write(text);
    }
}

impl Ingredient for Op {
    fn write(&self, text: &mut String) {
        let begun = fields(self.name());
        let fields = match self {
            Self::Input | Self::Binary(_) | Self::GlobalAveragePool | Self::Flatten => begun,
            Self::Conv {
                weight,
                bias,
                window,
                group,
            } => begun
                .with("weight", weight)
                .with("bias", bias)
                .with("window", window)
                .with("group", group),
            Self::Gemm { weight, bias } => begun.with("weight", weight).with("bias", bias),
            Self::BatchNormalization {
                scale,
                bias,
                mean,
                var,
                epsilon,
                momentum,
            } => begun
                .with("scale", scale)
                .with("bias", bias)
                .with("mean", mean)
                .with("var", var)
                .with("epsilon", epsilon)
                .with("momentum", momentum),
            Self::Unary(function) => {
                let attributes = function.attributes().into_iter();
                attributes.fold(begun, |begun, (name, value)| begun.with(name, value))
            }
            Self::MaxPool(window) | Self::AveragePool(window) => begun.with("window", window),
            Self::Slice { start, end, step } => begun
                .with("start", start)
                .with("end", end)
                .with("step", step),
            Self::Pad { begin, end } => begun.with("begin", begin).with("end", end),
        };
        fields.write(text);
    }
}

impl Ingredient for Window {
    fn write(&self, text: &mut String) {
        let Self {
            kernel,
            stride,
            pads,
        } = self;
        (kernel, stride, pads).write(text);
    }
}

impl Ingredient for InputSpec {
    fn write(&self, text: &mut String) {
        let Self {
            shape,
            mean,
            std,
            preparation,
        } = self;
        fields("input")
            .with("shape", shape)
            .with("mean", mean)
            .with("std", std)
            .with("preparation", preparation)
            .write(text);
    }
}

impl Ingredient for Preparation {
    fn write(&self, text: &mut String) {
        let Self { orientation, cover } = self;
        let orientation = match orientation {
            Orientation::Upright => "upright",
            Orientation::Stored => "stored",
        };
        fields("preparation")
            .with("orientation", orientation)
            .with("cover", cover)
            .write(text);
    }
}

impl Ingredient for TrainOptions {
    fn write(&self, text: &mut String) {
        let Self {
            epochs,
            lr,
            schedule,
            optimizer,
            precision,
        } = self;
        fields("train")
            .with("epochs", epochs)
            .with("lr", lr)
            .with("schedule", schedule)
            .with("optimizer", optimizer)
            .with("precision", precision)
            .write(text);
    }
}

impl Ingredient for Schedule {
    fn write(&self, text: &mut String) {
        let fields = match self {
            Self::Constant => fields("constant"),
            Self::OneCycle { peak, start, end } => fields("one_cycle")
                .with("peak", peak)
                .with("start", start)
                .with("end", end),
            Self::Cosine { warmup, end } => {
                fields("cosine").with("warmup", warmup).with("end", end)
            }
            Self::Step { at, factor } => fields("step").with("at", at).with("factor", factor),
        };
        fields.write(text);
    }
}

impl Ingredient for OptimizerOptions {
    fn write(&self, text: &mut String) {
        let Self {
            rule,
            weight_decay,
            norm_bias_lr,
            frozen,
            averaging,
        } = self;
        fields("optimizer")
            .with("rule", rule)
            .with("weight_decay", weight_decay)
            .with("norm_bias_lr", norm_bias_lr)
            .with("frozen", frozen)
            .with("averaging", averaging)
            .write(text);
    }
}

impl Ingredient for Rule {
    fn write(&self, text: &mut String) {
        let fields = match self {
            Self::Sgd(SgdOptions { momentum, nesterov }) => fields("sgd")
                .with("momentum", momentum)
                .with("nesterov", nesterov),
            Self::AdamW(AdamWOptions {
                beta1,
                beta2,
                epsilon,
            }) => fields("adamw")
                .with("beta1", beta1)
                .with("beta2", beta2)
                .with("epsilon", epsilon),
        };
        fields.write(text);
    }
}

impl Ingredient for Averaging {
    fn write(&self, text: &mut String) {
        let fields = match self {
            Self::None => fields("none"),
            Self::Ema { decay } => fields("ema").with("decay", decay),
            Self::Lookahead { every, decay } => fields("lookahead")
                .with("every", every)
                .with("decay", decay),
        };
        fields.write(text);
    }
}

impl Ingredient for Precision {
    fn write(&self, text: &mut String) {
        match self {
            Self::F32 => "f32".write(text),
            Self::Bf16 => "bf16".write(text),
        }
    }
}

impl Ingredient for opt_data::batches::TrainOptions {
    fn write(&self, text: &mut String) {
        let Self {
            batch_size,
            order_seed,
            augment_seed,
            augment,
            drop_last,
        } = self;
        fields("batches")
            .with("batch_size", batch_size)
            .with("order_seed", order_seed)
            .with("augment_seed", augment_seed)
            .with("augment", augment)
            .with("drop_last", drop_last)
            .write(text);
    }
}

impl Ingredient for AugmentConfig {
    fn write(&self, text: &mut String) {
        let Self { crop, flip } = self;
        let crop = match crop {
            Crop::None => fields("none"),
            Crop::Random { padding, border } => {
                let border = match border {
                    Border::Fill(bytes) => fields("fill").with("bytes", bytes),
                    Border::Reflect => fields("reflect"),
                };
                fields("random")
                    .with("padding", padding)
                    .with("border", border)
            }
        };
        let flip = match flip {
            Flip::None => "none",
            Flip::Random => "random",
            Flip::Alternating => "alternating",
        };
        fields("augment")
            .with("crop", crop)
            .with("flip", flip)
            .write(text);
    }
}

impl Ingredient for CrossEntropy {
    fn write(&self, text: &mut String) {
        let Self { label_smoothing } = self;
        let fields = fields("cross_entropy");
        fields.with("label_smoothing", label_smoothing).write(text);
    }
}

impl Ingredient for Kd {
    fn write(&self, text: &mut String) {
        let Self {
            temperature,
            w_kd,
            w_ce,
            label_smoothing,
        } = self;
        fields("kd")
            .with("temperature", temperature)
            .with("w_kd", w_kd)
            .with("w_ce", w_ce)
            .with("label_smoothing", label_smoothing)
            .write(text);
    }
}

/// What it rounds follows from these and the network.
impl Ingredient for FakeQuant {
    fn write(&self, text: &mut String) {
        fields("fake_quant")
            .with("placement", self.placement())
            .with("activations", self.activations())
            .with("weight_bits", self.weight_bits())
            .write(text);
    }
}

impl Ingredient for Placement {
    fn write(&self, text: &mut String) {
        let Self { adds, float } = self;
        let float: Vec<&String> = float.iter().collect();
        fields("placement")
            .with("adds", adds)
            .with("float", float)
            .write(text);
    }
}

impl Ingredient for ResidualAdd {
    fn write(&self, text: &mut String) {
        match self {
            Self::Fused => "fused".write(text),
            Self::Explicit => "explicit".write(text),
        }
    }
}

impl Ingredient for QParams {
    fn write(&self, text: &mut String) {
        let Self {
            scale,
            zero_point,
            qmin,
            qmax,
        } = self;
        (scale, zero_point, qmin, qmax).write(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: impl Ingredient) -> String {
        let mut text = String::new();
        value.write(&mut text);
        text
    }

    #[test]
    fn values_have_one_form() {
        let cases = [
            // Floats by their shortest digits: neighbours differ, and so do the two zeros.
            (text(0.1f64), "1e-1"),
            (text(0.1f32), "1e-1"),
            (text(0.1f64 + f64::EPSILON), "1.0000000000000023e-1"),
            (text(-0.0f64), "-0e0"),
            (text(f64::INFINITY), "inf"),
            (text(1e23f64), "1e23"),
            // What a string holds is not what stands around it.
            (text("a\"b\\n\n"), "\"a\\\"b\\\\n\\n\""),
            (text(BTreeMap::from([("a".to_owned(), 1u8)])), "[[\"a\",1]]"),
            (text((1u8, "x", [true])), "[1,\"x\",[true]]"),
            (text(fields("f")), "f{}"),
            (
                text(fields("f").with("a", 1u8).with("b", "c")),
                "f{a=1,b=\"c\"}",
            ),
        ];
        for (written, expected) in cases {
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn every_field_of_the_loop_counts() {
        let base = TrainOptions {
            epochs: 2,
            lr: 0.1,
            schedule: Schedule::Constant,
            optimizer: OptimizerOptions::default(),
            precision: Precision::F32,
        };
        let changes: [fn(&mut TrainOptions); 12] = [
            |o| o.epochs = 3,
            |o| o.lr = 0.2,
            |o| {
                o.schedule = Schedule::Cosine {
                    warmup: 0.0,
                    end: 0.0,
                }
            },
            |o| {
                o.schedule = Schedule::Cosine {
                    warmup: 0.0,
                    end: 0.1,
                }
            },
            |o| {
                o.schedule = Schedule::Step {
                    at: vec![],
                    factor: 0.1,
                }
            },
            |o| o.optimizer.rule = Rule::AdamW(AdamWOptions::default()),
            |o| o.optimizer.weight_decay = 0.0,
            |o| o.optimizer.norm_bias_lr = 2.0,
            |o| o.optimizer.frozen = vec!["a".to_owned()],
            |o| o.optimizer.averaging = Averaging::Ema { decay: 0.5 },
            |o| {
                o.optimizer.averaging = Averaging::Lookahead {
                    every: 1,
                    decay: 0.5,
                }
            },
            |o| o.precision = Precision::Bf16,
        ];
        let mut seen = vec![text(&base)];
        for change in changes {
            let mut options = base.clone();
            change(&mut options);
            let text = text(&options);
            assert!(!seen.contains(&text), "{text}");
            seen.push(text);
        }
    }
}
