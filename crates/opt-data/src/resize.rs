//! Resizing of decoded images with an antialiased triangle filter, and the crop of their centre.

/// The source pixels that make one target pixel.
#[derive(Debug)]
struct Taps {
    first: usize,
    /// Their weights; the sum is 1.
    weights: Vec<f32>,
}

/// Returns the taps of the target pixels `start..start + count` where `source` pixels become `target`.
///
/// ```text
/// r = source / target,  s = max(r, 1),  c_i = (i + ½) · r
/// w_ij ∝ max(0, 1 − |j + ½ − c_i| / s)     over the pixels j that exist
/// ```
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions lie within the source, and f32 is what weights are kept in"
)]
fn taps(source: usize, target: usize, start: usize, count: usize) -> Vec<Taps> {
    let ratio = source as f64 / target as f64;
    let support = ratio.max(1.0);
    (start..start + count)
        .map(|pixel| {
            let centre = (pixel as f64 + 0.5) * ratio;
            let first = (centre - support).floor().max(0.0) as usize;
            let end = ((centre + support).ceil() as usize).min(source);
            let weights: Vec<f64> = (first..end)
                .map(|j| (1.0 - (j as f64 + 0.5 - centre).abs() / support).max(0.0))
                .collect();
            let sum: f64 = weights.iter().sum();
            Taps {
                first,
                weights: weights.iter().map(|weight| (weight / sum) as f32).collect(),
            }
        })
        .collect()
}

/// Resizes so that the shorter side has `short` pixels, and writes the `size`×`size` pixels in the centre.
///
/// ```text
/// longer' = ⌊longer · short / shorter⌋,   first row and column of the crop = ⌊(side' − size) / 2⌋
/// ```
///
/// Only the pixels of the crop are computed, so an image of extreme proportions takes no more memory than another.
/// Sums run in f32 in a fixed order, first along rows, then along columns; the result is rounded once, halves up.
///
/// # Shapes
///
/// `pixels` is H×W×3, `output` 3×size×size.
///
/// # Panics
///
/// If a side is 0, `short` is below `size`, or a slice has another length.
#[track_caller]
pub(crate) fn resize_crop(
    pixels: &[u8],
    [height, width]: [usize; 2],
    short: usize,
    size: usize,
    output: &mut [u8],
) {
    assert!(
        height > 0 && width > 0 && size > 0 && short >= size,
        "sides"
    );
    assert_eq!(pixels.len(), height * width * 3, "H×W×3");
    assert_eq!(output.len(), 3 * size * size, "3×size×size");
    let shorter = height.min(width);
    let axis = |side: usize| {
        let target = side * short / shorter;
        taps(side, target, (target - size) / 2, size)
    };
    let (rows, columns) = (axis(height), axis(width));

    // The source rows that any row of the crop reads.
    let top = rows.first().map_or(0, |taps| taps.first);
    let bottom = rows
        .last()
        .map_or(0, |taps| taps.first + taps.weights.len());
    let mut narrow = vec![0f32; (bottom - top) * 3 * size];
    for (line, narrow) in pixels[top * width * 3..bottom * width * 3]
        .chunks_exact(width * 3)
        .zip(narrow.chunks_exact_mut(3 * size))
    {
        for (column, taps) in columns.iter().enumerate() {
            let mut sums = [0f32; 3];
            for (pixel, weight) in line[taps.first * 3..].chunks_exact(3).zip(&taps.weights) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += weight * f32::from(byte);
                }
            }
            for (channel, sum) in sums.into_iter().enumerate() {
                narrow[channel * size + column] = sum;
            }
        }
    }
    let mut sums = vec![0f32; 3 * size];
    for (row, taps) in rows.iter().enumerate() {
        sums.fill(0.0);
        let lines = narrow[(taps.first - top) * 3 * size..].chunks_exact(3 * size);
        for (line, weight) in lines.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
        for (channel, sums) in sums.chunks_exact(size).enumerate() {
            let start = (channel * size + row) * size;
            for (byte, sum) in output[start..start + size].iter_mut().zip(sums) {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the cast saturates, and a mean of bytes leaves 0 to 255 by rounding only"
                )]
                let rounded = (sum + 0.5) as u8;
                *byte = rounded;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Resizes a grey image and returns the red plane, after checking that the others are equal.
    fn grey(pixels: &[u8], shape: [usize; 2], short: usize, size: usize) -> Vec<u8> {
        let rgb: Vec<u8> = pixels.iter().flat_map(|&byte| [byte; 3]).collect();
        let mut output = vec![0; 3 * size * size];
        resize_crop(&rgb, shape, short, size, &mut output);
        let plane = size * size;
        assert_eq!(output[..plane], output[plane..2 * plane]);
        assert_eq!(output[..plane], output[2 * plane..]);
        output.truncate(plane);
        output
    }

    #[test]
    fn by_hand() {
        struct Case {
            pixels: &'static [u8],
            shape: [usize; 2],
            short: usize,
            size: usize,
            expected: &'static [u8],
        }
        let cases = [
            // Nothing to do.
            Case {
                pixels: &[1, 2, 3, 4],
                shape: [2, 2],
                short: 2,
                size: 2,
                expected: &[1, 2, 3, 4],
            },
            // Halving: r = 2, c_0 = 1, weights of columns 0, 1, 2 ∝ 3/4, 3/4, 1/4, so 3/7, 3/7, 1/7; column 3 is 2 away.
            // Top row: (3·0 + 3·70 + 140) / 7 = 50; mirrored (70 + 3·140 + 3·210) / 7 = 160; all rows are equal.
            Case {
                pixels: &[
                    0, 70, 140, 210, 0, 70, 140, 210, 0, 70, 140, 210, 0, 70, 140, 210,
                ],
                shape: [4, 4],
                short: 2,
                size: 2,
                expected: &[50, 160, 50, 160],
            },
            // The same along columns.
            Case {
                pixels: &[
                    0, 0, 0, 0, 70, 70, 70, 70, 140, 140, 140, 140, 210, 210, 210, 210,
                ],
                shape: [4, 4],
                short: 2,
                size: 2,
                expected: &[50, 50, 160, 160],
            },
            // Doubling: r = 1/2, centres 1/4, 3/4, 5/4, 7/4; weights 1, then 3/4 and 1/4, then 1/4 and 3/4, then 1.
            Case {
                pixels: &[0, 80, 0, 80],
                shape: [2, 2],
                short: 4,
                size: 4,
                expected: &[0, 20, 60, 80, 0, 20, 60, 80, 0, 20, 60, 80, 0, 20, 60, 80],
            },
            // A crop without resizing, wide: columns 1 and 2 of 5, because ⌊3 / 2⌋ = 1.
            Case {
                pixels: &[0, 1, 2, 3, 4, 10, 11, 12, 13, 14],
                shape: [2, 5],
                short: 2,
                size: 2,
                expected: &[1, 2, 11, 12],
            },
            // The same, tall.
            Case {
                pixels: &[0, 10, 1, 11, 2, 12, 3, 13, 4, 14],
                shape: [5, 2],
                short: 2,
                size: 2,
                expected: &[1, 11, 2, 12],
            },
            // Larger than the crop in both directions: the centre of 4×4.
            Case {
                pixels: &[0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33],
                shape: [4, 4],
                short: 4,
                size: 2,
                expected: &[11, 12, 21, 22],
            },
            // One pixel becomes many.
            Case {
                pixels: &[9],
                shape: [1, 1],
                short: 3,
                size: 2,
                expected: &[9; 4],
            },
            // A half is rounded up: (0 + 1 + 1 + 0) / 4.
            Case {
                pixels: &[0, 1, 1, 0],
                shape: [2, 2],
                short: 1,
                size: 1,
                expected: &[1],
            },
        ];
        for Case {
            pixels,
            shape,
            short,
            size,
            expected,
        } in cases
        {
            assert_eq!(
                grey(pixels, shape, short, size),
                expected,
                "{shape:?} to {short}, {size}"
            );
        }
    }

    #[test]
    fn channels_stay_apart() {
        // Two pixels, red and blue.
        let mut output = [0; 3];
        resize_crop(&[200, 0, 0, 0, 0, 100], [1, 2], 1, 1, &mut output);
        // Column 0 of 2: ⌊(2 − 1) / 2⌋ = 0.
        assert_eq!(output, [200, 0, 0]);
    }

    #[test]
    fn extreme_proportions_need_no_memory() {
        let image: Vec<u8> = (0..60_000u32)
            .map(|i| if i < 30_000 { 0 } else { 255 })
            .collect();
        // 15,360,000 columns in the whole; the crop lies across the edge.
        let row = &grey(&image, [1, 60_000], 256, 224)[..224];
        assert!(row.is_sorted() && row[0] < 60 && row[223] > 195, "{row:?}");
    }

    /// [`resize_crop`] of one plane without separation, window or f32.
    fn slow(pixels: &[u8], [h, w]: [usize; 2], short: usize, size: usize) -> Vec<f64> {
        let side = |s: usize| s * short / h.min(w);
        let weight = |source: usize, target: usize, i: usize, j: usize| {
            let r = source as f64 / target as f64;
            (1.0 - (j as f64 + 0.5 - (i as f64 + 0.5) * r).abs() / r.max(1.0)).max(0.0)
        };
        let (th, tw) = (side(h), side(w));
        let mut out = Vec::new();
        for y in (th - size) / 2..(th - size) / 2 + size {
            for x in (tw - size) / 2..(tw - size) / 2 + size {
                let (mut sum, mut total) = (0.0, 0.0);
                for (j, &byte) in pixels.iter().enumerate() {
                    let wt = weight(h, th, y, j / w) * weight(w, tw, x, j % w);
                    sum += wt * f64::from(byte);
                    total += wt;
                }
                out.push(sum / total);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn equals_the_slow_reference(
            h in 1usize..12, w in 1usize..12, size in 1usize..9, more in 0usize..4, seed: u64,
        ) {
            let pixels: Vec<u8> = (0..h * w)
                .map(|i| seed.wrapping_mul(i as u64 * 2 + 1).to_le_bytes()[3])
                .collect();
            let fast = grey(&pixels, [h, w], size + more, size);
            for (byte, exact) in fast.iter().zip(slow(&pixels, [h, w], size + more, size)) {
                // Rounding is half a step; f32 sums of at most 144 bytes are good to 1e-3.
                prop_assert!((f64::from(*byte) - exact).abs() <= 0.501, "{byte} for {exact}");
            }
        }
    }
}
