//! Tensors of many pieces, on one thread and several, against one number at a time; every kind of view.
#![expect(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use ndarray::{Array, Array2, ArrayD, ArrayView, Axis, Dimension, ShapeBuilder};
use opt_core::qparams::round_clamp;
use opt_quant::observe::min_max::channel_ranges;
use opt_quant::quantizer::affine::affine;
use opt_quant::quantizer::k_means::k_means;
use opt_quant::quantizer::symmetric::{
    Granularity, symmetric, symmetric_with_bias, symmetric_with_scales,
};
use opt_quant::quantizer::uniform_levels::{level, uniform_levels, uniform_levels_keeping_zero};
use opt_quant::{MinMax, QuantError, WeightMethod, metrics, quantize_weight};

/// Weights with zeros of both signs, ties, denormal numbers and one large one, the same ones every time.
fn weights(shape: &[usize]) -> ArrayD<f32> {
    let mut i = 0u32;
    ArrayD::from_shape_simple_fn(shape, || {
        i = i.wrapping_add(1);
        let scrambled = i.wrapping_mul(2_654_435_761) >> 8;
        let value = scrambled as f32 / 8_388_608.0 - 1.0;
        match scrambled % 11 {
            0 => 0.0,
            1 => -0.0,
            2 => (value * 254.0).round() * 0.5,
            3 => value * 1e-40,
            4 if scrambled.is_multiple_of(7) => value * 127.0,
            _ => value,
        }
    })
}

fn on_threads<T: Send>(n_threads: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
    pool.build().unwrap().install(run)
}

/// The symmetric scheme by its definition: a scale per index of axis 0, one number at a time.
fn slow_symmetric(weights: &ArrayD<f32>, bits: u8) -> (Vec<i8>, Vec<f32>) {
    let largest_code = (1i16 << (bits - 1)) - 1;
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for channel in weights.axis_iter(Axis(0)) {
        let largest = channel.iter().fold(0f32, |m, w| m.max(w.abs()));
        #[expect(clippy::cast_possible_truncation, reason = "the definition")]
        let scale = (f64::from(largest) / f64::from(largest_code)) as f32;
        let scale = if largest == 0.0 {
            1.0
        } else {
            scale.max(f32::MIN_POSITIVE)
        };
        let limit = i32::from(largest_code);
        let code = |w: &f32| i8::try_from(round_clamp(w / scale, 0, -limit, limit)).unwrap();
        codes.extend(channel.iter().map(code));
        scales.push(scale);
    }
    (codes, scales)
}

/// Tiny rows, rows around the length of a piece, one row of many pieces, rows without elements, many axes.
const SHAPES: [&[usize]; 8] = [
    &[40_000, 3],
    &[5, 32_767],
    &[5, 32_768],
    &[5, 32_769],
    &[1, 100_001],
    &[3, 1],
    &[130, 8, 3, 3],
    &[2, 50_001],
];

#[test]
fn symmetric_codes_are_those_of_one_number_at_a_time() {
    for shape in SHAPES {
        let mut weights = weights(shape);
        // A dead channel and one of denormal numbers.
        weights.index_axis_mut(Axis(0), shape[0] - 1).fill(-0.0);
        if shape[0] > 2 {
            weights
                .index_axis_mut(Axis(0), 1)
                .mapv_inplace(|w| w * 1e-42);
        }
        for bits in [2, 5, 8] {
            let (codes, scales) = slow_symmetric(&weights, bits);
            for n_threads in [1, 3] {
                let found = on_threads(n_threads, || {
                    symmetric(&weights, bits, Granularity::PerChannel)
                });
                let found = found.unwrap();
                assert_eq!(found.scales, scales, "{shape:?}, {bits} bits");
                assert!(found.codes.iter().eq(&codes), "{shape:?}, {bits} bits");
                let given = symmetric_with_scales(&weights, bits, scales.clone()).unwrap();
                assert_eq!(given, found);
                let with_bias = symmetric_with_bias(&weights, bits, &vec![0.0; shape[0]], 1.0);
                assert_eq!(with_bias.unwrap().codes.shape(), shape);
            }
            // Per tensor, as one row.
            let row = weights
                .to_shape((1, weights.len()))
                .unwrap()
                .into_owned()
                .into_dyn();
            let (codes, scales) = slow_symmetric(&row, bits);
            let found = symmetric(&weights, bits, Granularity::PerTensor).unwrap();
            assert_eq!(found.scales, scales);
            assert!(found.codes.iter().eq(&codes), "{shape:?}, {bits} bits");
        }
    }
}

#[test]
fn other_codes_are_those_of_one_number_at_a_time() {
    let weights = weights(&[7, 20_011]);
    for n_threads in [1, 3] {
        on_threads(n_threads, || {
            for bits in [1, 4, 8] {
                let found = affine(&weights, bits).unwrap();
                for (&w, &code) in weights.iter().zip(&found.codes) {
                    assert_eq!(i32::from(code), found.params.quantize(w));
                }
            }
            let range = MinMax::of(&weights).unwrap();
            let (min, max) = range.range().unwrap();
            for levels in [2, 37, 256] {
                let found = uniform_levels(&weights, levels).unwrap();
                for (&w, &code) in weights.iter().zip(&found.codes) {
                    assert_eq!(u16::from(code) + 1, level(w, min, max, levels));
                }
            }
            // With both signs, and where zero lies outside of the range of the others.
            let above = weights.mapv(|w| if w == 0.0 { w } else { w.abs() + 0.5 });
            for weights in [&weights, &above] {
                let kept: Vec<f32> = weights.iter().copied().filter(|w| *w != 0.0).collect();
                let (min, max) = MinMax::of(&kept).unwrap().range().unwrap();
                let found = uniform_levels_keeping_zero(weights, 8).unwrap();
                assert_eq!(found.centroids[1], min);
                for (&w, &code) in weights.iter().zip(&found.codes) {
                    let expected = if w == 0.0 { 0 } else { level(w, min, max, 255) };
                    assert_eq!(u16::from(code), expected);
                }
            }
        });
    }
}

#[test]
fn ranges_are_those_of_one_number_at_a_time() {
    let all = weights(&[100_003]);
    let all = all.as_slice().unwrap();
    for len in [1, 15, 16, 17, 32_768, 32_769, 100_003] {
        let values = &all[all.len() - len..];
        let min = values.iter().fold(f32::INFINITY, |m, v| m.min(*v));
        let max = values.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let range = MinMax::of(values).unwrap();
        assert_eq!(range.range(), Ok((min, max)), "{len}");
        assert_eq!(range.count, len as u64);
        let mut observed = MinMax::default();
        observed.observe(values).unwrap();
        assert_eq!(observed, range);
    }
    // The sign of zero is that of addition.
    for zeros in [[-0.0f32, -0.0], [-0.0, 0.0], [0.0, -0.0]] {
        let (min, max) = MinMax::of(&zeros).unwrap().range().unwrap();
        assert_eq!((min.to_bits(), max.to_bits()), (0, 0));
    }
}

#[test]
fn the_first_number_that_is_not_finite_is_named_wherever_it_stands() {
    let sound = weights(&[4, 40_000]);
    for first in [0, 17, 32_767, 32_768, 40_000, 99_999, 159_999] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = sound.clone();
            let flat = broken.as_slice_mut().unwrap();
            flat[159_999] = f32::NAN;
            flat[first] = bad;
            let ranges = channel_ranges(&broken).map(|_| ());
            let tensor = MinMax::of(&broken).map(|_| ());
            let given = symmetric_with_scales(&broken, 8, vec![1.0; 4]).map(|_| ());
            for result in [ranges, tensor, given] {
                match result {
                    Err(QuantError::NotFinite { index, value }) => {
                        assert_eq!((index, value.to_bits()), (first, flat_bits(&broken, first)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn flat_bits(weights: &ArrayD<f32>, index: usize) -> u32 {
    weights.as_slice().unwrap()[index].to_bits()
}

/// The codes of all methods, which must not depend on how the tensor lies in memory.
fn all_codes<D: Dimension>(weights: ArrayView<'_, f32, D>) -> Vec<Vec<u8>> {
    let methods = [
        WeightMethod::Affine { bits: 8 },
        WeightMethod::UniformLevels { levels: 19 },
        WeightMethod::UniformLevelsKeepingZero { bits: 4 },
        WeightMethod::Symmetric {
            bits: 8,
            granularity: Granularity::PerChannel,
        },
        WeightMethod::KMeans {
            levels: 5,
            pin_zero: true,
        },
    ];
    let of = |method| {
        let quantized = quantize_weight(&weights, method).unwrap();
        assert_eq!(quantized.codes.shape(), weights.shape());
        quantized.codes.iter().copied().collect()
    };
    methods.iter().map(of).collect()
}

#[test]
fn neither_strides_nor_the_type_of_the_dimension_matter() {
    let plain: Array2<f32> = weights(&[300, 200]).into_dimensionality().unwrap();
    let expected = all_codes(plain.view().into_dyn());
    assert_eq!(all_codes(plain.view()), expected);
    let columns_first = Array::from_shape_fn((300, 200).f(), |at| plain[at]);
    assert!(!columns_first.is_standard_layout());
    assert_eq!(all_codes(columns_first.view()), expected);
    let every_second = Array::from_shape_fn((600, 200), |(i, j)| plain[[i / 2, j]]);
    let every_second = every_second.slice(ndarray::s![..;2, ..]);
    assert_eq!(all_codes(every_second), expected);

    // Whatever gives a view: the result has its dimension.
    let flat = plain.as_slice().unwrap();
    let codes = affine(&plain, 8).unwrap().codes;
    assert_eq!(
        affine(flat, 8).unwrap().codes.to_vec(),
        codes.as_slice().unwrap()
    );
    assert_eq!(affine(&flat.to_vec(), 8).unwrap().codes.len(), flat.len());
    assert_eq!(codes.dim(), (300, 200));
    assert_eq!(
        symmetric(plain.view(), 8, Granularity::PerTensor)
            .unwrap()
            .codes
            .dim(),
        (300, 200)
    );
    assert_eq!(
        k_means(&plain, 4, false).unwrap().dequantize().dim(),
        (300, 200)
    );
    let number = affine(&ndarray::arr0(2.0f32), 8).unwrap();
    assert_eq!(number.dequantize()[()], 2.0);
    let error = metrics::mse(&plain, &affine(&plain, 8).unwrap().dequantize().into_dyn());
    assert!(error.unwrap() < 1.0);
}

#[test]
fn tensors_without_elements_have_no_codes() {
    for shape in [[0, 3], [3, 0]] {
        let empty = Array2::<f32>::zeros(shape);
        for granularity in [Granularity::PerTensor, Granularity::PerChannel] {
            let error = symmetric(&empty, 8, granularity).unwrap_err();
            assert_eq!(error, QuantError::Empty);
        }
        assert_eq!(k_means(&empty, 4, false).unwrap_err(), QuantError::Empty);
        let given = symmetric_with_scales(&empty, 8, vec![1.0; shape[0]]).unwrap();
        assert_eq!(given.codes.dim(), (shape[0], shape[1]));
        assert_eq!(given.dequantize(), empty);
    }
}
