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

/// Resizes until both sides of `cover` are reached and one is met, and returns the `crop` pixels in the centre.
///
/// ```text
/// h, w → cover_h, ⌊w · cover_h / h⌋   or   ⌊h · cover_w / w⌋, cover_w   whichever covers
/// first row and column of the crop = ⌊(side' − crop) / 2⌋
/// ```
///
/// Only the pixels of the crop are computed, so an image of extreme proportions takes no more memory than another.
/// Sums run in f32 in a fixed order, first along rows, then along columns; the result is rounded once, halves up.
///
/// # Shapes
///
/// `pixels` is H×W×C, the result C×crop.
///
/// # Panics
///
/// If a side is 0, `cover` is below `crop`, or `pixels` has another length.
#[track_caller]
pub(crate) fn resize_crop<const C: usize>(
    pixels: &[u8],
    [height, width]: [usize; 2],
    cover: [usize; 2],
    crop: [usize; 2],
) -> Vec<u8> {
    let sides = [height, width, crop[0], crop[1]];
    assert!(
        !sides.contains(&0) && cover[0] >= crop[0] && cover[1] >= crop[1],
        "sides"
    );
    assert_eq!(pixels.len(), height * width * C, "H×W×C");
    let target = if cover[0] * width >= cover[1] * height {
        [cover[0], width * cover[0] / height]
    } else {
        [height * cover[1] / width, cover[1]]
    };
    let axis = |i: usize| {
        let source = [height, width][i];
        taps(source, target[i], (target[i] - crop[i]) / 2, crop[i])
    };
    let (rows, columns) = (axis(0), axis(1));
    let size = crop[1];

    // The source rows that any row of the crop reads.
    let top = rows.first().map_or(0, |taps| taps.first);
    let bottom = rows
        .last()
        .map_or(0, |taps| taps.first + taps.weights.len());
    let mut narrow = vec![0f32; (bottom - top) * C * size];
    for (line, narrow) in pixels[top * width * C..bottom * width * C]
        .chunks_exact(width * C)
        .zip(narrow.chunks_exact_mut(C * size))
    {
        for (column, taps) in columns.iter().enumerate() {
            let mut sums = [0f32; C];
            for (pixel, weight) in line[taps.first * C..].chunks_exact(C).zip(&taps.weights) {
                for (sum, &byte) in sums.iter_mut().zip(pixel) {
                    *sum += weight * f32::from(byte);
                }
            }
            for (channel, sum) in sums.into_iter().enumerate() {
                narrow[channel * size + column] = sum;
            }
        }
    }
    let mut output = vec![0; C * crop[0] * size];
    let mut sums = vec![0f32; C * size];
    for (row, taps) in rows.iter().enumerate() {
        sums.fill(0.0);
        let lines = narrow[(taps.first - top) * C * size..].chunks_exact(C * size);
        for (line, weight) in lines.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(line) {
                *sum += weight * value;
            }
        }
        for (channel, sums) in sums.chunks_exact(size).enumerate() {
            let start = (channel * crop[0] + row) * size;
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
    output
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Resizes a grey image and returns the red plane, after checking that the others are equal.
    fn grey(pixels: &[u8], shape: [usize; 2], short: usize, size: usize) -> Vec<u8> {
        let rgb: Vec<u8> = pixels.iter().flat_map(|&byte| [byte; 3]).collect();
        let mut output = resize_crop::<3>(&rgb, shape, [short; 2], [size; 2]);
        assert_eq!(output.len(), 3 * size * size);
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
        let output = resize_crop::<3>(&[200, 0, 0, 0, 0, 100], [1, 2], [1, 1], [1, 1]);
        // Column 0 of 2: ⌊(2 − 1) / 2⌋ = 0.
        assert_eq!(output, [200, 0, 0]);
    }

    #[test]
    fn both_sides_are_covered() {
        struct Case {
            shape: [usize; 2],
            cover: [usize; 2],
            crop: [usize; 2],
            expected: &'static [u8],
        }
        // The pixel in row r and column c is 10·r + c.
        let cases = [
            // A square for something wide: its columns are met, rows 0 and 3 of 4 are cut.
            Case {
                shape: [4, 4],
                cover: [2, 4],
                crop: [2, 4],
                expected: &[10, 11, 12, 13, 20, 21, 22, 23],
            },
            // The same, tall.
            Case {
                shape: [4, 4],
                cover: [4, 2],
                crop: [4, 2],
                expected: &[1, 2, 11, 12, 21, 22, 31, 32],
            },
            // The proportions that are asked for, with a border that goes.
            Case {
                shape: [2, 4],
                cover: [2, 4],
                crop: [1, 2],
                expected: &[1, 2],
            },
        ];
        for Case {
            shape: [h, w],
            cover,
            crop,
            expected,
        } in cases
        {
            let pixels: Vec<u8> = (0..h * w)
                .map(|i| u8::try_from(10 * (i / w) + i % w).unwrap())
                .collect();
            let found = resize_crop::<1>(&pixels, [h, w], cover, crop);
            assert_eq!(found, expected, "{h}×{w} to {cover:?}, {crop:?}");
        }
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
