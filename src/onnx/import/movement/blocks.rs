//! `DepthToSpace` and `SpaceToDepth`: blocks of pixels become channels of one pixel, and back.

use super::super::importer::Importer;
use super::super::operator::{Call, Values, one};
use crate::onnx::host::{Length, show};

/// Where the positions inside a block stand among the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Before the channels of the image with the larger pixels: depth, column, row.
    BlocksFirst,
    /// After them: column, row, depth.
    ChannelsFirst,
}

impl Importer {
    pub(in crate::onnx::import) fn depth_to_space(&mut self, call: &Call<'_>) -> Values {
        let order = match call.node.string("mode", "DCR")? {
            "DCR" => Order::BlocksFirst,
            "CRD" => Order::ChannelsFirst,
            other => return Err(format!("its mode is {other}; supported are DCR and CRD")),
        };
        let (rows, [channels, height, width], block) = self.blocks(call)?;
        let area = block.saturating_mul(block);
        if channels % area != 0 {
            return Err(format!("it makes blocks of {area} pixels of {channels} channels, which they do not divide"));
        }
        let of = channels / area;
        let (split, perm) = match order {
            Order::BlocksFirst => ([block, block, of, height, width], [0, 3, 4, 1, 5, 2]),
            Order::ChannelsFirst => ([of, block, block, height, width], [0, 1, 4, 2, 5, 3]),
        };
        self.rearranged(call, rows, split, &perm, [of, height * block, width * block])
    }

    pub(in crate::onnx::import) fn space_to_depth(&mut self, call: &Call<'_>) -> Values {
        let (rows, [channels, height, width], block) = self.blocks(call)?;
        if height % block != 0 || width % block != 0 {
            return Err(format!("its blocks of {block} by {block} do not divide its image of {height} by {width}"));
        }
        let (down, across) = (height / block, width / block);
        let split = [channels, down, block, across, block];
        self.rearranged(call, rows, split, &[0, 3, 5, 1, 2, 4], [channels.saturating_mul(block * block), down, across])
    }

    /// The leading length, the lengths of channels, height and width, and the length of a block.
    fn blocks(&self, call: &Call<'_>) -> Result<(Length, [i64; 3], i64), String> {
        let lengths = self.logical(call.input(0)?);
        let &[rows, Length::Known(channels), Length::Known(height), Length::Known(width)] = lengths.as_slice() else {
            return Err(format!("its image {} has {} axes, expected 4", show(&lengths), lengths.len()));
        };
        let block = call.node.int("blocksize", 0)?;
        if !(1..=i64::from(u16::MAX)).contains(&block) {
            return Err(format!("its blocksize is {block}, expected from 1 to {}", u16::MAX));
        }
        Ok((rows, [channels, height, width], block))
    }

    /// A value with some axes split, moved, and merged.
    fn rearranged(
        &mut self,
        call: &Call<'_>,
        rows: Length,
        split: [i64; 5],
        perm: &[usize],
        merged: [i64; 3],
    ) -> Values {
        let shape = |dims: &[i64]| [rows].into_iter().chain(dims.iter().map(|&n| Length::Known(n))).collect::<Vec<_>>();
        let x = self.run(call.input(0)?)?;
        let x = self.reshaped(&call.part("split"), x, &shape(&split))?;
        let x = self.transposed(&call.part("moved"), x, perm)?;
        one(self.reshaped(&call.name, x, &shape(&merged))?)
    }
}
