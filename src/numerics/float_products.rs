//! The choice between fast and reproducible products of floats.

use super::named_enum::named_enum;

named_enum! {
    /// How an operator multiplies and adds floats.
    #[derive(Default)]
    pub enum FloatProducts {
        /// Factors of all 24 bits, and sums in whatever order is fast: engines agree within rounding. This is how float graphs compute.
        #[default]
        Full,
        /// Factors rounded to 12 significant bits, so that every product is exact, and sums in the order of the inner dimension
        /// (equation 11): every engine gives the same bits. This is how products that stay float in a quantized graph compute, unless
        /// [`ToIntegerOptions`](crate::quantize::ToIntegerOptions) ask for full ones.
        Reproducible,
    }
}

/// The form of an operator with float products in files, in which full products are those of an operator without parameters: files
/// from before the choice existed.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct FloatProductsRecord {
    products: FloatProducts,
}

impl From<Option<FloatProductsRecord>> for FloatProducts {
    fn from(record: Option<FloatProductsRecord>) -> Self {
        record.map_or(Self::Full, |record| record.products)
    }
}

impl From<FloatProducts> for Option<FloatProductsRecord> {
    fn from(products: FloatProducts) -> Self {
        (products != FloatProducts::Full).then_some(FloatProductsRecord { products })
    }
}
