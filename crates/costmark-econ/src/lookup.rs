//! From `aws/p5.4xlarge@us-east-1:spot` to one price, or to an error that shows the way.

use crate::book::{Price, PriceBooks, Term};
use crate::choice::{PriceBasis, PriceChoice};
use crate::error::LookupError;
use crate::nearest::nearest;

struct Reference<'a> {
    provider: &'a str,
    instance: &'a str,
    region: Option<&'a str>,
    term: Option<Term>,
}

impl PriceBooks {
    /// The price named by `provider/instance[@region][:term]`; letter case does not matter.
    ///
    /// Without a term, `on_demand` is taken where there is one, else the only term there is.
    /// Without a region, the only region there is. Nothing is picked silently among several.
    ///
    /// # Errors
    /// A malformed reference, an unknown price (with the closest ones there are), or an
    /// ambiguous one (with the references that tell the candidates apart).
    pub fn find(&self, reference: &str) -> Result<PriceChoice, LookupError> {
        let wanted = self.parse_reference(reference)?;
        let offers: Vec<(&str, &Price)> = self
            .prices()
            .filter(|(_, p)| {
                p.provider.eq_ignore_ascii_case(wanted.provider)
                    && p.instance.eq_ignore_ascii_case(wanted.instance)
            })
            .collect();
        if offers.is_empty() {
            return Err(LookupError::NotFound {
                reference: reference.to_owned(),
                suggestions: self.similar(&format!("{}/{}", wanted.provider, wanted.instance)),
            });
        }
        let in_region: Vec<_> = offers
            .iter()
            .filter(|(_, p)| {
                wanted
                    .region
                    .is_none_or(|r| p.region.eq_ignore_ascii_case(r))
            })
            .copied()
            .collect();
        let has = |term: Term| in_region.iter().any(|(_, p)| p.term == term);
        let term = wanted
            .term
            .or_else(|| has(Term::OnDemand).then_some(Term::OnDemand));
        let matching: Vec<_> = in_region
            .iter()
            .filter(|(_, p)| term.is_none_or(|t| p.term == t))
            .copied()
            .collect();
        match matching.as_slice() {
            [(file, price)] => Ok(PriceChoice {
                price: (*price).clone(),
                basis: PriceBasis::Book {
                    file: (*file).to_owned(),
                },
            }),
            [] => Err(LookupError::NotFound {
                reference: reference.to_owned(),
                suggestions: references(&offers),
            }),
            several => Err(LookupError::Ambiguous {
                reference: reference.to_owned(),
                candidates: references(several),
            }),
        }
    }

    fn parse_reference<'a>(&self, reference: &'a str) -> Result<Reference<'a>, LookupError> {
        let error = |problem: String| LookupError::Reference {
            reference: reference.to_owned(),
            problem,
        };
        let Some((provider, rest)) = reference.trim().split_once('/') else {
            let near = self.similar(reference.trim());
            return Err(error(match near.as_slice() {
                [] => String::from("it has no provider"),
                near => format!("it has no provider (did you mean {}?)", near.join(", ")),
            }));
        };
        let (rest, term) = match rest.split_once(':') {
            None => (rest, None),
            Some((rest, name)) => match Term::from_name(name) {
                Some(term) => (rest, Some(term)),
                None => {
                    let names = Term::ALL.map(Term::name).join(", ");
                    return Err(error(format!(
                        "`{name}` is not a term; the terms are {names}"
                    )));
                }
            },
        };
        let (instance, region) = match rest.split_once('@') {
            None => (rest, None),
            Some((instance, region)) => (instance, Some(region)),
        };
        if provider.is_empty() || instance.is_empty() || region == Some("") {
            return Err(error(String::from("a part of it is empty")));
        }
        Ok(Reference {
            provider,
            instance,
            region,
            term,
        })
    }

    /// `provider/instance` names close to `name`, which may lack the provider.
    fn similar(&self, name: &str) -> Vec<String> {
        nearest(
            name,
            self.prices()
                .map(|(_, price)| format!("{}/{}", price.provider, price.instance)),
        )
    }
}

fn references(offers: &[(&str, &Price)]) -> Vec<String> {
    offers.iter().map(|(_, p)| p.reference()).collect()
}
