//! Pictures with edges: rings, stripes and discs in colours, of any size.

/// What a picture shows. Positions run from 0 to 1 along both axes.
#[derive(Debug)]
pub(crate) struct Scene {
    shapes: Vec<Shape>,
    background: [f32; 3],
}

#[derive(Debug)]
struct Shape {
    centre: [f32; 2],
    /// Of what the shape fills.
    radius: f32,
    /// Rings or stripes in it; 0 for a disc.
    lines: f32,
    /// Whether the lines are straight.
    is_straight: bool,
    color: [f32; 3],
}

impl Scene {
    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        let shapes = 3 + random.usize(0..4);
        let shape = |random: &mut fastrand::Rng| Shape {
            centre: [random.f32(), random.f32()],
            radius: 0.15 + 0.35 * random.f32(),
            lines: if random.bool() { 0.0 } else { 2.0 + 4.0 * random.f32() },
            is_straight: random.bool(),
            color: [random.f32(), random.f32(), random.f32()],
        };
        let background = [random.f32(), random.f32(), random.f32()];
        Self { shapes: (0..shapes).map(|_| shape(random)).collect(), background }
    }

    /// The picture as planes of red, green and blue from 0 to 1. A pixel is the mean of nine points in it.
    pub(crate) fn pixels(&self, [width, height]: [usize; 2]) -> Vec<f32> {
        let mut planes = vec![0.0; 3 * width * height];
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            for point in 0..9 {
                let part = |at: usize, part: usize| at as f32 + (part as f32 + 0.5) / 3.0;
                let [x, y] = [part(column, point % 3) / width as f32, part(row, point / 3) / height as f32];
                for (plane, value) in planes.chunks_exact_mut(width * height).zip(self.color([x, y])) {
                    plane[row * width + column] += value / 9.0;
                }
            }
        }
        planes
    }

    fn color(&self, [x, y]: [f32; 2]) -> [f32; 3] {
        let covers = |shape: &&Shape| {
            let [dx, dy] = [x - shape.centre[0], y - shape.centre[1]];
            let distance = dx.hypot(dy) / shape.radius;
            let along = if shape.is_straight { (dx + 0.6 * dy) / shape.radius } else { distance };
            distance < 1.0 && (shape.lines == 0.0 || (along * shape.lines).rem_euclid(1.0) < 0.5)
        };
        self.shapes.iter().rev().find(covers).map_or(self.background, |shape| shape.color)
    }
}

/// Halves a picture: each pixel is the mean of four.
pub(crate) fn halved(planes: &[f32], [width, height]: [usize; 2]) -> Vec<f32> {
    let half = |plane: &[f32]| {
        let at = |row: usize, column: usize| plane[row * width + column];
        let mean = |row: usize, column: usize| {
            (at(row, column) + at(row, column + 1) + at(row + 1, column) + at(row + 1, column + 1)) / 4.0
        };
        let rows = (0..height).step_by(2);
        rows.flat_map(|row| (0..width).step_by(2).map(move |column| (row, column)))
            .map(|(row, column)| mean(row, column))
            .collect::<Vec<f32>>()
    };
    planes.chunks_exact(width * height).flat_map(half).collect()
}

/// The peak signal-to-noise ratio of a picture against another, in decibels.
pub(crate) fn psnr(picture: &[f32], expected: &[f32]) -> f64 {
    let error = |(a, b): (&f32, &f32)| f64::from(a.clamp(0.0, 1.0) - b).powi(2);
    let sum: f64 = picture.iter().zip(expected).map(error).sum();
    -10.0 * (sum / expected.len() as f64).log10()
}
