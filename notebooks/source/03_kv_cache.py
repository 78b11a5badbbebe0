# %% [markdown]
# # 03
